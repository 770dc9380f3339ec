package org.quadloom.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.TreeMap;

/** The order in which an epoch goes through the local data: the same as a Python device's for the same seed and epoch. */
final class EpochOrder {
  private EpochOrder() {}

  /** Every row once. */
  static int[] shuffled(int examples, long seed, int epoch) {
    return random(seed, epoch).permutation(examples);
  }

  /**
   * Rows of which any n that begin at a multiple of n have one of each of the n classes, as
   * {@code quadloom_runtime.class_balance} orders them: those of rare classes again and again, those of common ones not
   * all. As many rows as there are labels.
   */
  static int[] balanced(int[] labels, long seed, int epoch) {
    TreeMap<Integer, List<Integer>> rowsOfClass = new TreeMap<>();
    for (int row = 0; row < labels.length; row++) {
      if (!rowsOfClass.containsKey(labels[row])) {
        rowsOfClass.put(labels[row], new ArrayList<Integer>());
      }
      rowsOfClass.get(labels[row]).add(row);
    }
    Pcg64 random = random(seed, epoch);
    int turns = quotientUp(labels.length, rowsOfClass.size());
    int[][] columns = new int[rowsOfClass.size()][];
    int classes = 0;
    for (List<Integer> rows : rowsOfClass.values()) {
      columns[classes++] = againAndAgain(rows, turns, random);
    }
    int[] order = new int[turns * classes];
    for (int turn = 0; turn < turns; turn++) {
      int[] oneOfEach = new int[classes];
      for (int column = 0; column < classes; column++) {
        oneOfEach[column] = columns[column][turn];
      }
      random.shuffle(oneOfEach);
      System.arraycopy(oneOfEach, 0, order, turn * classes, classes);
    }
    return Arrays.copyOf(order, labels.length);
  }

  /** All rows in some order, then all in another, until there are {@code count}. */
  private static int[] againAndAgain(List<Integer> rows, int count, Pcg64 random) {
    int[] found = new int[quotientUp(count, rows.size()) * rows.size()];
    for (int start = 0; start < found.length; start += rows.size()) {
      int[] pass = new int[rows.size()];
      for (int i = 0; i < pass.length; i++) {
        pass[i] = rows.get(i);
      }
      random.shuffle(pass);
      System.arraycopy(pass, 0, found, start, pass.length);
    }
    return Arrays.copyOf(found, count);
  }

  private static int quotientUp(int dividend, int divisor) {
    return (dividend + divisor - 1) / divisor;
  }

  private static Pcg64 random(long seed, int epoch) {
    // The second number tells negative seeds apart, which the wire contract does not have.
    return new Pcg64(seed, 0, epoch);
  }
}
