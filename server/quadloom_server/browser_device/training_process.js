/** Runs the training of one assignment in a fresh worker and waits for its end. */
import { saysOutOfMemory } from "./errors.js";

const CHECKPOINT_EVERY_S = 10;

/**
 * The outcome of a job, or the report of its failure, of whatever kind.
 *
 * @param {object} job what training_worker.js takes
 * @param {{onStep: (step: object) => void, stopped: AbortSignal}} options
 * @returns {Promise<{kind: "trained" | "failed"}>}
 */
export async function trainInWorker(job, { onStep, stopped }) {
  stopped.throwIfAborted(); // a listener of a signal that has been given is never called
  const worker = new Worker(new URL("./training_worker.js", import.meta.url), { type: "module" });
  let stop;
  try {
    return await new Promise((resolve, reject) => {
      stop = () => reject(stopped.reason);
      stopped.addEventListener("abort", stop, { once: true });
      worker.onmessage = ({ data }) => (data.kind === "stepped" ? onStep(data) : resolve(data));
      worker.onerror = (event) => {
        event.preventDefault();
        const message = `the training worker ended: ${event.message ?? "it could not be started"}`;
        resolve({ kind: "failed", report: { kind: saysOutOfMemory(message) ? "out-of-memory" : "other", message } });
      };
      worker.postMessage({ ...job, checkpointEveryS: CHECKPOINT_EVERY_S });
    });
  } finally {
    stopped.removeEventListener("abort", stop); // else the signal, which outlives all rounds, keeps this job's files
    worker.terminate();
  }
}
