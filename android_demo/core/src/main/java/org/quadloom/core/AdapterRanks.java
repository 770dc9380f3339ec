package org.quadloom.core;

import java.util.ArrayList;
import java.util.List;

/** The tensors of an adapter at a lower LoRA rank than the family's: A has fewer rows, B fewer columns. */
final class AdapterRanks {
  private static final String A_ENDING = ".lora_A.weight";
  private static final String B_ENDING = ".lora_B.weight";

  private AdapterRanks() {}

  static boolean isA(ParameterSpec row) {
    return row.rank != ParameterSpec.NO_RANK && row.name.endsWith(A_ENDING) && row.shape.length == 2;
  }

  static boolean isB(ParameterSpec row) {
    return row.rank != ParameterSpec.NO_RANK && row.name.endsWith(B_ENDING) && row.shape.length == 2;
  }

  /** Rows of a parameter table as a device of this rank has them, the head's as they are. */
  static List<ParameterSpec> rowsAtRank(List<ParameterSpec> rows, int rank) throws QuadloomException {
    List<ParameterSpec> found = new ArrayList<>();
    for (ParameterSpec row : rows) {
      found.add(row.rank == ParameterSpec.NO_RANK || row.rank == rank ? row : atRank(row, rank));
    }
    return found;
  }

  private static ParameterSpec atRank(ParameterSpec row, int rank) throws QuadloomException {
    if (rank > row.rank || !(isA(row) || isB(row))) {
      throw new QuadloomException(
          row.name + " has rank " + row.rank + ", it cannot be trained at rank " + rank,
          "choose a rank from 1 to " + row.rank);
    }
    long[] shape = isA(row) ? new long[] {rank, row.shape[1]} : new long[] {row.shape[0], rank};
    return new ParameterSpec(row.name, shape, row.layer, rank);
  }
}
