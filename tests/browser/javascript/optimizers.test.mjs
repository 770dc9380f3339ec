import assert from "node:assert/strict";
import test from "node:test";
import { page, vectors } from "./vectors.mjs";

const { AdamW, clipByGlobalNorm } = await import(new URL("optimizers.js", page));

test("AdamW with clipping does what torch does, step by step, and goes on from its state", () => {
  const { start, gradients, values, rate, decay, clip } = vectors.adamw;
  const parameters = new Map([["w", Float32Array.from(start)]]);
  const untouched = parameters.get("w");
  let optimizer = new AdamW(decay);
  gradients.forEach((gradient, step) => {
    const found = new Map([["w", Float32Array.from(gradient)]]);
    clipByGlobalNorm(found, clip);
    if (step === 5) optimizer = new AdamW(decay, structuredClone(optimizer.state));
    optimizer.update(parameters, found, () => rate);
    parameters.get("w").forEach((value, place) => assert.ok(Math.abs(value - values[step][place]) < 2e-6));
  });
  assert.deepEqual([...untouched], start.map(Math.fround));
});
