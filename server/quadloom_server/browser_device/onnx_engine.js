/** ONNX Runtime for the web, single-threaded WebAssembly: one member's training graph. */
import { StepOutOfMemoryError, saysOutOfMemory } from "./errors.js";

const GRADIENT_PREFIX = "gradient.";

/**
 * Options that keep the graph as the exporter planned it, and memory no longer than a tensor lives. The arena of native
 * devices is not bound: the web's interface gives outputs no place, so only the results are asked for.
 */
const SESSION_OPTIONS = {
  executionProviders: ["wasm"],
  graphOptimizationLevel: "disabled",
  enableCpuMemArena: false,
  enableMemPattern: false,
  logSeverityLevel: 3,
  extra: { session: { disable_quant_qdq: "1", disable_prepacking: "1" } },
};

/** Runs one training graph. */
export class OnnxTrainingEngine {
  /** Load a member; a graph can open no file here but the weights that it is given. */
  static async open(ort, { member, label, graph, weights, weightsName }) {
    const options = { ...SESSION_OPTIONS, externalData: [{ path: weightsName, data: weights }] };
    const session = await guarded(label, () => ort.InferenceSession.create(graph, options));
    return new OnnxTrainingEngine(ort, session, member, label);
  }

  constructor(ort, session, member, label) {
    Object.assign(this, { ort, session, member, label });
    this.results = member.outputs.map((spec) => spec.name);
  }

  /** Forward and backward over every row of the parameter table and one batch. */
  async step(parameters, batch) {
    const feeds = {};
    for (const { name, dtype, shape } of this.member.inputs) {
      const sizes = shape.map((size) => size ?? batch.labels.length);
      feeds[name] = new this.ort.Tensor(dtype, parameters.get(name) ?? batch[name], sizes);
    }
    const found = await guarded(this.label, () => this.session.run(feeds, this.results));
    const gradients = this.results.filter((name) => name.startsWith(GRADIENT_PREFIX));
    return {
      loss: found.loss.data[0],
      predictions: Number(found.example_count.data[0]),
      gradients: new Map(gradients.map((name) => [name.slice(GRADIENT_PREFIX.length), found[name].data])),
    };
  }
}

async function guarded(label, work) {
  try {
    return await work();
  } catch (error) {
    const text = String(error?.message ?? error);
    throw error instanceof RangeError || saysOutOfMemory(text)
      ? new StepOutOfMemoryError(label, text.slice(0, 500))
      : error;
  }
}
