package org.quadloom.core;

/** One row of the parameter table: a trainable float32 tensor. */
public final class ParameterSpec {
  /** Stands in {@link #layer} for the head, which belongs to no layer. */
  public static final int HEAD = -1;

  /** Stands in {@link #rank} for a tensor without a LoRA rank. */
  public static final int NO_RANK = 0;

  public final String name;
  public final long[] shape;

  /** Transformer layer, counted from the input; or {@link #HEAD}. */
  public final int layer;

  /** LoRA rank; or {@link #NO_RANK}. */
  public final int rank;

  public ParameterSpec(String name, long[] shape, int layer, int rank) {
    this.name = name;
    this.shape = shape;
    this.layer = layer;
    this.rank = rank;
  }
}
