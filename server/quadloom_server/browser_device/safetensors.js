/** Float32 tensors as safetensors: 8 bytes of length, a JSON header padded with spaces, the tensors in a row. */
import { QuadloomError } from "./errors.js";

const LENGTH_BYTES = 8;
const ALIGNMENT_BYTES = 8;
const LARGEST_HEADER_BYTES = 1 << 20;

/**
 * Read the tensors of a file, which must be exactly those of a parameter table.
 *
 * @param {Uint8Array} content
 * @param {{name: string, shape: number[]}[]} table
 * @returns {Map<string, Float32Array>}
 */
export function readParameters(content, table) {
  const { entries, start } = header(content);
  const names = new Set(Object.keys(entries).filter((name) => name !== "__metadata__"));
  const parameters = new Map();
  let reached = 0;
  for (const row of table) {
    const entry = entries[row.name];
    if (!names.delete(row.name)) throw wrong(`has no tensor ${row.name}`);
    if (entry.dtype !== "F32" || String(entry.shape) !== String(row.shape)) {
      throw wrong(`has ${row.name} as ${entry.dtype} [${entry.shape}], the table as F32 [${row.shape}]`);
    }
    const [begin, end] = entry.data_offsets;
    if (end - begin !== 4 * elements(row.shape) || begin < 0 || start + end > content.length) {
      throw wrong(`has ${row.name} from byte ${begin} to ${end}`);
    }
    parameters.set(row.name, new Float32Array(content.slice(start + begin, start + end).buffer));
    reached += end - begin;
  }
  if (names.size > 0) throw wrong(`has the surplus tensor ${[...names][0].slice(0, 200)}`);
  if (start + reached !== content.length) throw wrong(`has ${content.length - start} bytes of tensors, not ${reached}`);
  return parameters;
}

/**
 * Write tensors and texts.
 *
 * @param {{name: string, shape: number[]}[]} table which tensors, in which order
 * @param {Map<string, Float32Array>} tensors
 * @param {Record<string, string>} metadata
 * @returns {Uint8Array}
 */
export function writeTensors(table, tensors, metadata) {
  const entries = { __metadata__: metadata };
  let reached = 0;
  for (const row of table) {
    const end = reached + 4 * elements(row.shape);
    entries[row.name] = { dtype: "F32", shape: row.shape, data_offsets: [reached, end] };
    reached = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(entries));
  const headerBytes = Math.ceil(text.length / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
  const content = new Uint8Array(LENGTH_BYTES + headerBytes + reached).fill(
    0x20,
    LENGTH_BYTES,
    LENGTH_BYTES + headerBytes,
  );
  new DataView(content.buffer).setBigUint64(0, BigInt(headerBytes), true);
  content.set(text, LENGTH_BYTES);
  for (const row of table) {
    const values = tensors.get(row.name);
    const place = LENGTH_BYTES + headerBytes + entries[row.name].data_offsets[0];
    content.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), place);
  }
  return content;
}

/** How many numbers a tensor of this shape has. */
function elements(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

function header(content) {
  if (content.length < LENGTH_BYTES) throw wrong(`has ${content.length} bytes`);
  const length = new DataView(content.buffer, content.byteOffset).getBigUint64(0, true);
  if (length > LARGEST_HEADER_BYTES || LENGTH_BYTES + Number(length) > content.length) {
    throw wrong(`says that its header has ${length} bytes`);
  }
  const start = LENGTH_BYTES + Number(length);
  try {
    return {
      entries: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content.subarray(LENGTH_BYTES, start))),
      start,
    };
  } catch (error) {
    throw wrong(`has a header that is no JSON: ${error.message}`);
  }
}

function wrong(problem) {
  return new QuadloomError(`the adapter ${problem}`, "check the server and its state");
}
