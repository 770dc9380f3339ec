/** The person's texts and labels, from JSONL or CSV; they stay in this tab. */
import { QuadloomError } from "./errors.js";

/**
 * Read rows with a text and a label.
 *
 * @param {string} content of the file, or what was pasted
 * @param {{textField: string, labelField: string}} fields
 * @returns {{texts: string[], labels: number[]}} labels are class indices
 */
export function readExamples(content, { textField, labelField }) {
  const source = content.replace(/^\ufeff/, "");
  const rows = source.trimStart().startsWith("{") ? jsonRows(source) : csvRows(source);
  if (rows.length === 0) throw new QuadloomError("there are no examples", "give at least one row of text and label");
  const texts = [];
  const labels = [];
  rows.forEach((row, place) => {
    for (const field of [textField, labelField]) {
      if (row[field] === undefined || row[field] === null) {
        const there = Object.keys(row).join(", ").slice(0, 200);
        throw new QuadloomError(
          `row ${place + 1} has no field ${field}; it has ${there}`,
          "name the fields under Settings",
        );
      }
    }
    if (typeof row[textField] !== "string") {
      throw new QuadloomError(`row ${place + 1}: the text is no text`, "give the text as a string");
    }
    texts.push(row[textField]);
    labels.push(classIndex(row[labelField], place + 1));
  });
  return { texts, labels };
}

/** Check that each label is one of the family's classes. */
export function checkLabels(labels, numLabels) {
  const place = labels.findIndex((label) => label >= numLabels);
  if (place >= 0) {
    throw new QuadloomError(
      `row ${place + 1}: label ${labels[place]} is outside 0 to ${numLabels - 1}`,
      "number the labels from 0, or export the family with a larger --num-labels",
    );
  }
}

/** A class index from 1, 1.0 or "1". */
function classIndex(value, row) {
  const text = String(value).trim();
  const label = text === "" ? NaN : Number(text);
  if (!Number.isSafeInteger(label) || label < 0) {
    throw new QuadloomError(
      `row ${row}: label ${text.slice(0, 80)} is not a class index`,
      "number the labels from 0: 0, 1, 2",
    );
  }
  return label;
}

function jsonRows(content) {
  const rows = [];
  content.split(/\r\n|\n|\r/).forEach((line, place) => {
    if (line.trim() === "") return;
    let row;
    try {
      row = JSON.parse(line);
    } catch (error) {
      throw new QuadloomError(`line ${place + 1} is not JSON: ${error.message}`, "write one object per line");
    }
    if (typeof row !== "object" || row === null || Array.isArray(row)) {
      throw new QuadloomError(`line ${place + 1} is not an object`, "write one object per line");
    }
    rows.push(row);
  });
  return rows;
}

function csvRows(content) {
  const [names, ...records] = csvRecords(content).filter((record) => record.length > 1 || record[0] !== "");
  if (names === undefined) return [];
  return records.map((record) => Object.fromEntries(names.map((name, place) => [name, record[place]])));
}

/** Records of comma-separated values (RFC 4180): quotes may hold commas, line ends and doubled quotes. */
function csvRecords(content) {
  const records = [];
  let record = [];
  // A field is quoted as a whole or has no quote at its start; it ends at a comma, a line end or the end.
  const field = /(?:"((?:[^"]|"")*)"([^,\r\n]*)|((?!")[^,\r\n]*))(,|\r\n|\n|\r|$)/y;
  while (field.lastIndex < content.length) {
    const found = field.exec(content);
    if (found === null) {
      throw new QuadloomError(
        `a quote in record ${records.length + 1} is not closed`,
        "double the quotes within a field",
      );
    }
    record.push(found[3] ?? found[1].replaceAll('""', '"') + found[2]);
    if (found[4] === "," && field.lastIndex === content.length) record.push("");
    if (found[4] !== ",") {
      records.push(record);
      record = [];
    }
  }
  if (record.length > 0) records.push(record);
  return records;
}
