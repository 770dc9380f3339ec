import assert from "node:assert/strict";
import test from "node:test";
import { page } from "./vectors.mjs";

const { RankEngine, rowsAtRank } = await import(new URL("rank.js", page));
const TABLE = [
  { name: "q.lora_A.weight", shape: [4, 3], layer: 0, rank: 4 },
  { name: "q.lora_B.weight", shape: [2, 4], layer: 0, rank: 4 },
  { name: "head", shape: [2], layer: "head", rank: null },
];

test("a lower rank gives the graph the same product, and the device the slope of it", async () => {
  let seen;
  const gradients = new Map(
    TABLE.map((row) => [row.name, Float32Array.from({ length: row.shape[0] * (row.shape[1] ?? 1) }, (_, n) => n)]),
  );
  const engine = new RankEngine(
    { step: async (parameters) => ((seen = parameters), { loss: 1, gradients }) },
    TABLE,
    2,
  );
  const mine = [
    [1, 2, 3, 4, 5, 6],
    [1, 2, 3, 4],
    [9, 9],
  ].map((values) => Float32Array.from(values));
  const result = await engine.step(new Map(TABLE.map((row, place) => [row.name, mine[place]])), {});
  assert.deepEqual([...seen.get("q.lora_A.weight")], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual([...seen.get("q.lora_B.weight")], [2, 4, 0, 0, 6, 8, 0, 0]);
  assert.deepEqual([...result.gradients.get("q.lora_A.weight")], [0, 1, 2, 3, 4, 5]);
  assert.deepEqual([...result.gradients.get("q.lora_B.weight")], [0, 2, 8, 10]);
  assert.deepEqual(
    rowsAtRank(TABLE, 2).map((row) => row.shape),
    [[2, 3], [2, 2], [2]],
  );
  assert.throws(() => rowsAtRank(TABLE, 5), /rank 4, not 5/);
});
