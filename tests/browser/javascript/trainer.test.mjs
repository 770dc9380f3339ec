import assert from "node:assert/strict";
import test from "node:test";
import { page } from "./vectors.mjs";

const { train } = await import(new URL("trainer.js", page));
const ROWS = 11;
const SHAPE = { batch_size: 2, sequence_length: 1 };
const SETTINGS = {
  optimizer: "adamw",
  learning_rate: 0.1,
  head_learning_rate: 0.1,
  weight_decay: 0,
  schedule: "linear",
  clip_norm: null,
  epochs: 3,
  accumulation: 2,
  max_steps: null,
  seed: 3,
  class_balance: false,
};
const BATCHES_PER_STEP = SETTINGS.accumulation;
const ROWS_PER_STEP = SHAPE.batch_size * BATCHES_PER_STEP;
const STEPS_PER_EPOCH = 3; // the last batch of the last step has a single row

/** Train on rows that are their own numbers; gives the outcome, the rows of each batch, how many were read by then. */
async function trained({ resume } = {}) {
  const found = { batches: [], readAtBatch: [], checkpoints: [] };
  let read = 0;
  const numbers = BigInt64Array.from({ length: ROWS }, (_, row) => BigInt(row));
  const data = {
    length: ROWS,
    labels: Array(ROWS).fill(0),
    input_ids: { subarray: (start, end) => ((read += 1), numbers.subarray(start, end)) },
    attention_mask: numbers,
    token_type_ids: numbers,
  };
  const engine = {
    step: async (parameters, batch) => {
      found.readAtBatch.push(read);
      found.batches.push([...batch.input_ids].map(Number));
      const slope = Number(batch.input_ids[0]) - parameters.get("head")[0];
      return { loss: slope ** 2, predictions: batch.examples, gradients: new Map([["head", Float32Array.of(slope)]]) };
    },
  };
  found.outcome = await train({
    engine,
    parameters: new Map([["head", Float32Array.of(0)]]),
    trained: [{ name: "head", layer: "head" }],
    data,
    shape: SHAPE,
    settings: SETTINGS,
    resume,
    onStep: (at) => found.checkpoints.push(structuredClone(at)),
  });
  return found;
}

test("every epoch goes through all rows, and no step builds the batches of another", async () => {
  const { batches, readAtBatch, outcome } = await trained();
  assert.equal(outcome.steps, 3 * STEPS_PER_EPOCH);
  assert.equal(outcome.examples, ROWS);
  for (let epoch = 0; epoch < 3; epoch++) {
    const perEpoch = STEPS_PER_EPOCH * BATCHES_PER_STEP;
    assert.equal(new Set(batches.slice(perEpoch * epoch, perEpoch * (epoch + 1)).flat()).size, ROWS);
  }
  readAtBatch.forEach((read, batch) => {
    const earlier = SHAPE.batch_size * batch;
    assert.ok(read <= earlier + ROWS_PER_STEP, `${read} rows were read for batch ${batch}`);
  });
});

test("training that goes on builds no batch of a step that was made", async () => {
  const whole = await trained();
  for (const made of [1, 3, 5, 8]) {
    const resumed = await trained({ resume: structuredClone(whole.checkpoints[made - 1]) });
    assert.deepEqual(resumed.batches, whole.batches.slice(BATCHES_PER_STEP * made));
    assert.deepEqual(resumed.outcome.update, whole.outcome.update);
    assert.ok(resumed.readAtBatch[0] <= ROWS_PER_STEP, `${resumed.readAtBatch[0]} rows were read`);
  }
});
