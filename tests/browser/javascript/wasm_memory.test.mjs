import assert from "node:assert/strict";
import test from "node:test";
import { page } from "./vectors.mjs";

const { limitGrowth, memoryBytes } = await import(new URL("wasm_memory.js", page));
const PAGE_BYTES = 65_536;

test("memory is measured, and grows no further than it may", () => {
  const memory = new WebAssembly.Memory({ initial: 100, maximum: 1000 });
  memory.grow(20);
  assert.equal(memoryBytes(), 120 * PAGE_BYTES);
  limitGrowth(30 * PAGE_BYTES);
  memory.grow(36); // thirty and a twentieth of 120
  assert.throws(() => memory.grow(1), RangeError);
  assert.equal(memoryBytes(), 156 * PAGE_BYTES);
});
