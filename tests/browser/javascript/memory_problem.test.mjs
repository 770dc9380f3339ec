import assert from "node:assert/strict";
import test from "node:test";
import { page } from "./vectors.mjs";

const { StepOutOfMemoryError } = await import(new URL("errors.js", page));
const { OnnxTrainingEngine } = await import(new URL("onnx_engine.js", page));
const { trainInWorker } = await import(new URL("training_process.js", page));

const OF_MEMORY = [
  "std::bad_alloc",
  "Failed to allocate memory for requested buffer of size 4096",
  "Aborted(OOM). Build with -sASSERTIONS for more info.",
  "Array buffer allocation failed",
  "WebAssembly.Memory(): could not allocate memory",
  "memory access out of bounds",
  "Out of memory",
];
const OF_SOMETHING_ELSE = [
  "no classroom.onnx is there",
  "Zoom is no operator of this opset",
  "Failed to fetch wasm_memory.js",
  "the tensor has external data in memory but no cached OrtValue",
];

/** What becomes of a graph that cannot be loaded because of this. */
function loading(cause) {
  const ort = { InferenceSession: { create: () => Promise.reject(new Error(cause)) } };
  return OnnxTrainingEngine.open(ort, { member: { outputs: [] }, label: "d01-q00" });
}

/** The kind of failure that is reported of a worker that ends because of this. */
async function kindOf(cause) {
  globalThis.Worker = class {
    postMessage() {
      queueMicrotask(() => this.onerror({ preventDefault() {}, message: cause }));
    }

    terminate() {}
  };
  return (await trainInWorker({}, { stopped: new AbortController().signal })).report.kind;
}

test("what says that memory is short makes the device ask for a smaller member", async () => {
  for (const cause of OF_MEMORY) {
    await assert.rejects(loading(cause), StepOutOfMemoryError, cause);
    assert.equal(await kindOf(cause), "out-of-memory", cause);
  }
});

test("words that only look like it do not", async () => {
  for (const cause of OF_SOMETHING_ELSE) {
    await assert.rejects(loading(cause), (error) => !(error instanceof StepOutOfMemoryError), cause);
    assert.equal(await kindOf(cause), "other", cause);
  }
});
