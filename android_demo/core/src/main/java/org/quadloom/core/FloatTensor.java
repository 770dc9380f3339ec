package org.quadloom.core;

import java.util.Arrays;

/** A float32 tensor in row-major order. Nobody changes the values of a tensor that somebody else made. */
public final class FloatTensor {
  private final long[] shape;
  private final float[] values;

  /**
   * @param shape extents; none for a scalar
   * @param values as many as the product of the extents; not copied
   */
  public FloatTensor(long[] shape, float[] values) {
    if (elements(shape) != values.length) {
      throw new IllegalArgumentException(
          values.length + " values do not fill the shape " + Arrays.toString(shape));
    }
    this.shape = shape.clone();
    this.values = values;
  }

  /** The extents. */
  public long[] shape() {
    return shape.clone();
  }

  /** The values themselves, no copy. */
  public float[] values() {
    return values;
  }

  private static long elements(long[] shape) {
    long product = 1;
    for (long extent : shape) {
      product = Math.multiplyExact(product, extent);
    }
    return product;
  }
}
