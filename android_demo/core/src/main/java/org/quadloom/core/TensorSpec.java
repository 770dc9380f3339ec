package org.quadloom.core;

/** An input or output of a graph. */
public final class TensorSpec {
  /** Stands in {@link #shape} for the extent of the batch, where the graph leaves it open. */
  public static final long OPEN = -1;

  public final String name;

  /** {@code float32}, {@code int64}, {@code int32} or {@code bool}. */
  public final String dtype;

  public final long[] shape;

  public TensorSpec(String name, String dtype, long[] shape) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
  }
}
