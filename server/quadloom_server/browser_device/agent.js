/** The device loop of quadloom_runtime/device/agent.py: enrol, check in, fetch, train, report, until the task ends. */
import { assignedMember, memberLabel, tokenizerBlob, trainedRows, weightsOf } from "./family_copy.js";
import { RefusedError } from "./client.js";
import { QuadloomError, ServerUnreachableError } from "./errors.js";
import { checkLabels } from "./local_data.js";
import { rowsAtRank } from "./rank.js";
import { pause } from "./retry.js";
import { writeTensors } from "./safetensors.js";
import { trainInWorker } from "./training_process.js";

const RETRY_AFTER_REFUSAL_S = 5;
const LATEST_EXTRA = 0.1; // a device comes back a little later than it was told, so that a fleet does not come in step
const LARGEST_GRADIENT_NORM = 1e6;
const LONGEST_MESSAGE = 4000;

/** One device: this browser, for as long as the tab is open. */
export class DeviceAgent {
  /**
   * @param {object} parts
   * @param {Kept} parts.kept what survives a reload
   * @param {ServerClient} parts.client
   * @param {FamilyCopy} parts.family
   * @param {{name: string, memoryLimitBytes: number, rank: number | null, token: string}} parts.options
   * @param {{texts: string[], labels: number[]}} parts.examples
   * @param {(event: object) => void} parts.say told what happens
   * @param {AbortSignal} parts.stopped
   */
  constructor(parts) {
    Object.assign(this, parts);
    this.lastUpload = null;
  }

  /**
   * Work until the server says that the task is finished.
   *
   * Fails with a ServerUnreachableError where no answer comes for as long as patience lasts; progress is kept.
   */
  async run() {
    await this.#enrol();
    for (;;) {
      let answer;
      try {
        answer = await this.client.checkIn();
      } catch (error) {
        if (!(error instanceof RefusedError) || error.code !== "unknown-device") throw error;
        await this.#wait(RETRY_AFTER_REFUSAL_S);
        await this.#enrol(); // the server began anew and knows nobody
        continue;
      }
      if (answer.assignment !== null) {
        await this.#wait(await this.#do(answer.assignment));
      } else if (answer.task_state === "finished") {
        this.say({ kind: "finished", reason: answer.reason });
        return;
      } else {
        this.say({ kind: "waiting", reason: answer.reason });
        await this.#wait(answer.retry_after_s);
      }
    }
  }

  /** Enrol, and check the local data against the family before any work is taken. */
  async #enrol() {
    const { name, memoryLimitBytes, rank, token } = this.options;
    const capabilities = {
      formats: ["onnx"],
      memory_limit_bytes: memoryLimitBytes,
      threads: 1,
      examples: this.examples.texts.length,
      profile: "browser",
      rank,
    };
    const answer = await this.client.enrol(name, capabilities, token);
    const manifest = await this.family.manifest(answer.manifest_sha256);
    checkLabels(this.examples.labels, manifest.task.num_labels);
    this.say({ kind: "enrolled", name, model: manifest.model.source });
  }

  /** One assignment from download to report; returns after how many seconds to check in again. */
  async #do(assignment) {
    this.say({
      kind: "assigned",
      round: assignment.round_index,
      member: memberLabel(assignment.member),
      reason: assignment.reason,
    });
    try {
      const unsent = await this.kept.of(assignment.assignment_id, "update");
      const made = unsent === undefined ? await this.#train(assignment) : { content: unsent };
      return made.failure === undefined
        ? await this.#reportUpdate(assignment, made.content)
        : await this.#reportFailure(assignment, made.failure);
    } catch (error) {
      // No failure of the assignment: what is done of it stays, for the next start.
      if (error instanceof ServerUnreachableError) throw error;
      const isDiskFull = error.name === "QuotaExceededError";
      if (!isDiskFull && !(error instanceof QuadloomError)) throw error;
      return this.#reportFailure(assignment, { kind: "other", message: error.message.slice(0, LONGEST_MESSAGE) });
    }
  }

  /** Make the update, and keep it until the server has it. */
  async #train(assignment) {
    const id = assignment.assignment_id;
    const { manifest, member, files, download } = await this.#fetch(assignment);
    const checkpoint = await this.kept.of(id, "checkpoint");
    const { examples, stopped } = this;
    const { memoryLimitBytes } = this.options;
    const job = { manifest, member, assignment, files, examples, memoryLimitBytes, checkpoint };
    const trained = await trainInWorker(job, {
      stopped,
      onStep: ({ step, steps, loss, checkpoint: reached }) => {
        this.say({ kind: "stepped", round: assignment.round_index, step, steps, loss });
        // One that cannot be kept costs nothing but time.
        if (reached !== undefined) this.kept.putFor(id, "checkpoint", reached).catch(() => {});
      },
    });
    if (trained.kind === "failed") return { failure: trained.report };
    const table = trainedRows(manifest, rowsAtRank(manifest.parameters, assignment.rank), member.key.depth);
    const report = updateReport(trained, download, this.lastUpload);
    const content = writeTensors(table, trained.outcome.update, { report: JSON.stringify(report) });
    await this.kept.putFor(id, "update", content);
    return { content };
  }

  /**
   * Bring the files of the assignment here; `download` says how many bytes came and, if nobody reloaded, in how many
   * seconds: of transfers alone, since the planner takes them for the speed of the link.
   */
  async #fetch(assignment) {
    const id = assignment.assignment_id;
    const earlierBytes = (await this.kept.of(id, "downloaded")) ?? 0;
    const { downBytes: beforeBytes, downloadS: beforeS } = this.client;
    const bring = async (blob) => {
      const content = await this.family.bring(blob);
      await this.kept.putFor(id, "downloaded", earlierBytes + this.client.downBytes - beforeBytes);
      return content;
    };
    const manifest = await this.family.manifest(assignment.manifest_sha256);
    const member = assignedMember(manifest, assignment);
    const weights = weightsOf(manifest);
    const files = {
      weights: await bring(weights),
      weightsName: weights.path.split("/").at(-1), // as the graph, which lies beside it, names it
      graph: await bring(member.graph),
      tokenizer: await bring(tokenizerBlob(manifest)),
      adapter: await bring(assignment.adapter),
    };
    const bytes = earlierBytes + this.client.downBytes - beforeBytes;
    const seconds = earlierBytes > 0 ? null : this.client.downloadS - beforeS;
    return { manifest, member, files, download: { bytes, seconds } };
  }

  async #reportUpdate(assignment, content) {
    const started = performance.now();
    const answer = await this.client.reportUpdate(assignment.assignment_id, content);
    this.lastUpload = { bytes: content.length, seconds: (performance.now() - started) / 1000 };
    await this.#forget(assignment);
    this.say({
      kind: "reported",
      round: assignment.round_index,
      status: answer.status,
      reason: answer.reason,
      bytes: content.length,
    });
    return retryAfterS(assignment, answer);
  }

  async #reportFailure(assignment, report) {
    this.say({ kind: "failed", round: assignment.round_index, message: report.message });
    await this.#forget(assignment);
    try {
      return retryAfterS(assignment, await this.client.reportFailure(assignment.assignment_id, report));
    } catch (error) {
      if (!(error instanceof RefusedError)) throw error;
      this.say({ kind: "failed", round: assignment.round_index, message: error.message });
      return assignment.retry_after_rejected_s;
    }
  }

  /** Nothing of the assignment is needed any more; the next round brings another adapter. */
  async #forget(assignment) {
    await this.kept.remove("update", "checkpoint", "downloaded");
    await this.family.forget(assignment.adapter);
  }

  #wait(seconds) {
    return pause(seconds * (1 + Math.random() * LATEST_EXTRA), this.stopped);
  }
}

/** After how many seconds to check in again, as the assignment said beforehand. */
function retryAfterS(assignment, answer) {
  return answer.status === "rejected" ? assignment.retry_after_rejected_s : assignment.retry_after_accepted_s;
}

/** The figures that travel with an update: an UpdateReport. */
function updateReport({ outcome, baselineBytes, peakStepBytes }, download, lastUpload) {
  return {
    schema_version: 1,
    examples: outcome.examples,
    steps: outcome.steps,
    loss_first: outcome.lossFirst,
    loss_last: outcome.lossLast,
    train_s: outcome.trainS,
    baseline_bytes: baselineBytes,
    peak_step_bytes: peakStepBytes,
    downloaded_bytes: download.bytes,
    download_s: download.seconds,
    last_upload_bytes: lastUpload?.bytes ?? null,
    last_upload_s: lastUpload?.seconds ?? null,
    gradient_norms: outcome.gradientNorms.map((norm) => Math.min(norm, LARGEST_GRADIENT_NORM)),
  };
}
