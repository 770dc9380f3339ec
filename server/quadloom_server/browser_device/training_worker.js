/** Trains one assignment in a worker of its own, so that memory is counted from the same idle state every time. */
import { limitGrowth, memoryBytes } from "./wasm_memory.js"; // first: it must see the module's memory made
import * as ort from "./packages/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./packages/@huggingface/tokenizers/dist/tokenizers.min.mjs";
import { StepOutOfMemoryError } from "./errors.js";
import { memberLabel, trainedRows } from "./family_copy.js";
import { OnnxTrainingEngine } from "./onnx_engine.js";
import { RankEngine, rowsAtRank } from "./rank.js";
import { readParameters } from "./safetensors.js";
import { encode } from "./tokenization.js";
import { train } from "./trainer.js";

const LONGEST_MESSAGE = 4000;

ort.env.wasm.numThreads = 1;

self.onmessage = async ({ data: job }) => {
  try {
    self.postMessage({ kind: "trained", ...(await run(job)) });
  } catch (error) {
    const kind = error instanceof StepOutOfMemoryError || error instanceof RangeError ? "out-of-memory" : "other";
    self.postMessage({
      kind: "failed",
      report: { kind, message: String(error.message ?? error).slice(0, LONGEST_MESSAGE) },
    });
  }
};

/** From the files of an assignment to the change of the trained tensors and the figures of the report. */
async function run({ manifest, member, assignment, files, examples, memoryLimitBytes, checkpoint, checkpointEveryS }) {
  const table = rowsAtRank(manifest.parameters, assignment.rank);
  const parameters = readParameters(files.adapter, table);
  const settings = JSON.parse(new TextDecoder().decode(files.tokenizer));
  const data = encode(examples.texts, settings, new Tokenizer(settings, {}), manifest.batch.sequence_length);
  const engine = await OnnxTrainingEngine.open(ort, { member, label: memberLabel(member.key), ...files });
  const baselineBytes = memoryBytes();
  limitGrowth(memoryLimitBytes);
  let keptAt = performance.now();
  const outcome = await train({
    engine:
      assignment.rank === manifest.lora.rank ? engine : new RankEngine(engine, manifest.parameters, assignment.rank),
    parameters,
    trained: trainedRows(manifest, table, member.key.depth),
    data: { ...data, labels: examples.labels },
    shape: manifest.batch,
    settings: assignment.settings,
    resume: checkpoint,
    onStep: (at, steps) => {
      const isDue = at.step < steps && performance.now() - keptAt >= checkpointEveryS * 1000;
      if (isDue) keptAt = performance.now();
      self.postMessage({
        kind: "stepped",
        step: at.step,
        steps,
        loss: at.losses.at(-1),
        checkpoint: isDue ? at : undefined,
      });
    },
  });
  return { outcome, baselineBytes, peakStepBytes: memoryBytes() - baselineBytes };
}
