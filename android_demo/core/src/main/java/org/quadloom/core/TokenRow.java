package org.quadloom.core;

import java.util.List;

/** How the ids of a text fill a row of fixed length: what stands before and after them, and the padding. */
final class TokenRow {
  final int length;
  private final int[] before;
  private final int[] after;
  private final int padId;
  private final int padTypeId;

  /**
   * @param before ids of the tokens before a text
   * @param after ids of the tokens after it; like the text, of type 0
   */
  TokenRow(int length, int[] before, int[] after, int padId, int padTypeId) {
    this.length = length;
    this.before = before;
    this.after = after;
    this.padId = padId;
    this.padTypeId = padTypeId;
  }

  /** Write the ids of a text, its end cut off if need be, into a row of {@code data}. */
  void fill(List<Integer> ids, EncodedData data, int rowNumber) {
    int start = rowNumber * length;
    int kept = Math.min(ids.size(), length - before.length - after.length);
    int place = start;
    for (int id : before) {
      data.inputIds[place++] = id;
    }
    for (int id : ids.subList(0, kept)) {
      data.inputIds[place++] = id;
    }
    for (int id : after) {
      data.inputIds[place++] = id;
    }
    for (int i = start; i < start + length; i++) {
      boolean isText = i < place;
      data.inputIds[i] = isText ? data.inputIds[i] : padId;
      data.attentionMask[i] = (byte) (isText ? 1 : 0);
      data.tokenTypeIds[i] = isText ? 0 : padTypeId;
    }
  }
}
