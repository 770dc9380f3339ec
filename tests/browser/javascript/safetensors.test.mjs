import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import test from "node:test";
import { page, tensorsFile } from "./vectors.mjs";

const { readParameters, writeTensors } = await import(new URL("safetensors.js", page));
const TABLE = [
  { name: "b", shape: [2, 2] },
  { name: "é", shape: [1] },
];

test("what the safetensors library wrote is read", () => {
  const found = readParameters(tensorsFile, TABLE);
  assert.deepEqual([...found.get("b")], [1.5, -2, 0, 3]);
  assert.deepEqual([...found.get("é")], [7]);
});

test("another table, a cut file and a lying header are refused", () => {
  assert.throws(() => readParameters(tensorsFile, TABLE.slice(1)), /surplus tensor b/);
  assert.throws(() => readParameters(tensorsFile, [...TABLE, { name: "c", shape: [1] }]), /no tensor c/);
  assert.throws(() => readParameters(tensorsFile, [{ name: "b", shape: [4] }, TABLE[1]]), /the table as F32 \[4\]/);
  for (let end = 0; end < tensorsFile.length; end++) {
    assert.throws(() => readParameters(tensorsFile.slice(0, end), TABLE), /the adapter/, `${end} bytes`);
  }
  const lying = tensorsFile.slice();
  lying.fill(0xff, 0, 8);
  assert.throws(() => readParameters(lying, TABLE), /header/);
});

test("what is written is read again; Python reads it after this", () => {
  const tensors = new Map([
    ["é", Float32Array.of(7)],
    ["b", Float32Array.of(1.5, -2, 0, 3)],
  ]);
  const content = writeTensors(TABLE, tensors, { report: '"ü"' });
  assert.deepEqual([...readParameters(content, TABLE).get("b")], [1.5, -2, 0, 3]);
  writeFileSync(`${process.env.QUADLOOM_VECTORS}/written.safetensors`, content);
});
