/** Encoded data cut into batches of the family's static shape. */

/** Label of a padding row: it adds nothing to loss, counts or gradients. */
const IGNORED_LABEL = -100n;

/**
 * The batches of one epoch; the last is filled with rows that the loss ignores.
 *
 * @param data rows of token ids and their labels
 * @param {number[]} order row numbers
 * @param {{batch_size: number, sequence_length: number}} shape
 */
export function* batches(data, order, { batch_size: batchSize, sequence_length: length }) {
  for (let start = 0; start < order.length; start += batchSize) {
    const taken = order.slice(start, start + batchSize);
    // A padding row repeats a real one: an empty row would have no token to attend to.
    const filled = [...taken, ...Array(batchSize - taken.length).fill(taken[0])];
    const rowsOf = (values) => {
      const rows = new BigInt64Array(batchSize * length);
      filled.forEach((row, place) => rows.set(values.subarray(row * length, (row + 1) * length), place * length));
      return rows;
    };
    yield {
      examples: taken.length,
      input_ids: rowsOf(data.input_ids),
      attention_mask: rowsOf(data.attention_mask),
      token_type_ids: rowsOf(data.token_type_ids),
      labels: BigInt64Array.from(filled, (row, place) =>
        place < taken.length ? BigInt(data.labels[row]) : IGNORED_LABEL,
      ),
    };
  }
}
