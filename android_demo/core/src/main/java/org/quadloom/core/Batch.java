package org.quadloom.core;

/**
 * One batch of the family's static shape; every tensor is int64, row-major.
 *
 * <p>{@code inputIds}, {@code attentionMask} and {@code tokenTypeIds} have the shape (batchSize, sequenceLength), the last
 * is used only by graphs with that input. {@code labels} has the shape (batchSize); {@link #IGNORED_LABEL} marks a row of
 * padding.
 */
public final class Batch {
  /** Label of a padding row: it adds nothing to loss, counts or gradients. */
  public static final long IGNORED_LABEL = -100;

  public final int batchSize;
  public final int sequenceLength;
  public final long[] inputIds;
  public final long[] attentionMask;
  public final long[] tokenTypeIds;
  public final long[] labels;

  public Batch(
      int batchSize, int sequenceLength, long[] inputIds, long[] attentionMask, long[] tokenTypeIds, long[] labels) {
    this.batchSize = batchSize;
    this.sequenceLength = sequenceLength;
    this.inputIds = inputIds;
    this.attentionMask = attentionMask;
    this.tokenTypeIds = tokenTypeIds;
    this.labels = labels;
  }

  /** Rows that count. */
  public int examples() {
    int found = 0;
    for (long label : labels) {
      found += label == IGNORED_LABEL ? 0 : 1;
    }
    return found;
  }
}
