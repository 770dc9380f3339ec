import assert from "node:assert/strict";
import test from "node:test";
import { page, vectors } from "./vectors.mjs";

const { encode } = await import(new URL("tokenization.js", page));
const { Tokenizer } = await import(new URL("node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs", page));
const { settings, texts, length, rows } = vectors.tokens;

test("token ids of hard texts are those of Python's tokenizers, cut and padded alike", () => {
  const found = encode(texts, settings, new Tokenizer(settings, {}), length);
  rows.forEach((expected, row) => {
    for (const [name, values] of Object.entries(expected)) {
      assert.deepEqual(
        [...found[name].subarray(row * length, (row + 1) * length)].map(Number),
        values,
        `${name} of ${texts[row]}`,
      );
    }
  });
});

test("a tokenizer of another length than the family's is refused before any text is encoded", () => {
  assert.throws(() => encode(texts, settings, null, length + 1), /does not make rows/);
});
