import assert from "node:assert/strict";
import test from "node:test";
import { page } from "./vectors.mjs";

const { checkLabels, readExamples } = await import(new URL("local_data.js", page));
const FIELDS = { textField: "text", labelField: "label" };

test("CSV and JSONL of the same rows are the same examples", () => {
  const csv = '\ufefflabel,text\r\n1,"a ""good"", long\nfilm"\r\n0.0,bad\r\n\r\n';
  const lines = '{"text": "a \\"good\\", long\\nfilm", "label": 1}\n\n{"text": "bad", "label": "0"}\n';
  const expected = { texts: ['a "good", long\nfilm', "bad"], labels: [1, 0] };
  assert.deepEqual(readExamples(csv, FIELDS), expected);
  assert.deepEqual(readExamples(lines, FIELDS), expected);
});

test("what is wrong is named with its row", () => {
  const wrong = {
    "": /no examples/,
    '{"text": "a"}': /row 1 has no field label; it has text/,
    '{"text": "a", "label": 0}\n{"text": 3, "label": 0}': /row 2: the text is no text/,
    '{"text": "a", "label": -1}': /row 1: label -1 is not a class index/,
    '{"text": "a", "label": ""}': /not a class index/,
    '{"text"': /line 1 is not JSON/,
    'text,label\n"a,0': /quote in record 2 is not closed/,
  };
  for (const [content, problem] of Object.entries(wrong))
    assert.throws(() => readExamples(content, FIELDS), problem, content);
  assert.throws(() => checkLabels([0, 2], 2), /row 2: label 2 is outside 0 to 1/);
});
