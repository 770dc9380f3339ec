package org.quadloom.core;

import java.util.Arrays;

/** Token ids of all examples, each array (examples, sequenceLength) row by row, and a label per example. */
final class EncodedData {
  final int examples;
  final int sequenceLength;
  final int[] inputIds;
  final byte[] attentionMask;
  final int[] tokenTypeIds;
  final int[] labels;

  EncodedData(int examples, int sequenceLength) {
    this.examples = examples;
    this.sequenceLength = sequenceLength;
    int tokens = Math.multiplyExact(examples, sequenceLength);
    inputIds = new int[tokens];
    attentionMask = new byte[tokens];
    tokenTypeIds = new int[tokens];
    labels = new int[examples];
  }

  /**
   * The batch of these rows, filled up to {@code batchSize} with rows that the loss ignores.
   *
   * @param rows 1 to batchSize row numbers
   */
  Batch batch(int[] rows, int batchSize) {
    int tokens = batchSize * sequenceLength;
    long[] ids = new long[tokens];
    long[] mask = new long[tokens];
    long[] types = new long[tokens];
    long[] rowLabels = new long[batchSize];
    Arrays.fill(rowLabels, Batch.IGNORED_LABEL);
    for (int i = 0; i < batchSize; i++) {
      // A padding row repeats a real one: an empty row would have no token to attend to.
      int row = i < rows.length ? rows[i] : rows[0];
      if (i < rows.length) {
        rowLabels[i] = labels[row];
      }
      for (int j = 0; j < sequenceLength; j++) {
        ids[i * sequenceLength + j] = inputIds[row * sequenceLength + j];
        mask[i * sequenceLength + j] = attentionMask[row * sequenceLength + j];
        types[i * sequenceLength + j] = tokenTypeIds[row * sequenceLength + j];
      }
    }
    return new Batch(batchSize, sequenceLength, ids, mask, types, rowLabels);
  }
}
