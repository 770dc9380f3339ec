package org.quadloom.core;

import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Training at a lower rank than that of the graph, exactly: the device's A and B are padded with zeros.
 *
 * <p>The graph of rank R computes W + (alpha / R) B' A', a device of rank r wants W + (alpha / r) B A. With A above zero
 * rows as A', and (R / r) B beside zero columns as B', the two are equal. By the chain rule the gradient of B is that of
 * B' times R / r; what belongs to padding is dropped.
 */
final class RankRuntime implements StepRuntime {
  private final StepRuntime runtime;
  private final int rank;
  private final Map<String, ParameterSpec> table = new HashMap<>();

  private final Map<String, long[]> ownShapes = new HashMap<>();

  /**
   * @param table the family's parameter table, at the graph's rank
   * @throws QuadloomException it cannot be trained at this rank
   */
  RankRuntime(StepRuntime runtime, List<ParameterSpec> table, int rank) throws QuadloomException {
    this.runtime = runtime;
    this.rank = rank;
    for (ParameterSpec row : table) {
      this.table.put(row.name, row);
    }
    for (ParameterSpec row : AdapterRanks.rowsAtRank(table, rank)) {
      ownShapes.put(row.name, row.shape);
    }
  }

  @Override
  public StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    Map<String, FloatTensor> padded = new LinkedHashMap<>();
    for (Map.Entry<String, FloatTensor> entry : parameters.entrySet()) {
      ParameterSpec row = table.get(entry.getKey());
      padded.put(row.name, resized(row, entry.getValue(), row.shape));
    }
    StepResult result = runtime.step(padded, batch);
    Map<String, FloatTensor> cut = new LinkedHashMap<>();
    for (Map.Entry<String, FloatTensor> entry : result.gradients.entrySet()) {
      ParameterSpec row = table.get(entry.getKey());
      cut.put(row.name, resized(row, entry.getValue(), ownShapes.get(row.name)));
    }
    return new StepResult(result.loss, result.correct, result.examples, cut);
  }

  @Override
  public void close() {
    runtime.close();
  }

  /** A LoRA tensor cut or padded with zeros to a shape, B times R / r. */
  private FloatTensor resized(ParameterSpec row, FloatTensor tensor, long[] shape) {
    if (!AdapterRanks.isA(row) && !AdapterRanks.isB(row)) {
      return tensor;
    }
    float factor = AdapterRanks.isB(row) ? (float) ((double) row.rank / rank) : 1;
    int oldColumns = (int) tensor.shape()[1];
    int columns = (int) shape[1];
    float[] values = new float[(int) shape[0] * columns];
    int rows = (int) Math.min(shape[0], tensor.shape()[0]);
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < Math.min(columns, oldColumns); j++) {
        values[i * columns + j] = factor * tensor.values()[i * oldColumns + j];
      }
    }
    return new FloatTensor(shape, values);
  }
}
