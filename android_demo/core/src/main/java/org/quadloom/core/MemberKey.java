package org.quadloom.core;

import java.util.Locale;

/** What names a member within a family. */
public final class MemberKey {
  public final int depth;
  public final int quantizedLayers;
  public final int recomputePercent;

  /** {@code onnx}, {@code executorch} or {@code ort-training}. */
  public final String format;

  public MemberKey(int depth, int quantizedLayers, int recomputePercent, String format) {
    this.depth = depth;
    this.quantizedLayers = quantizedLayers;
    this.recomputePercent = recomputePercent;
    this.format = format;
  }

  /** Name within its format, as in file names: {@code d06-q04}, or {@code d06-q04-r30} if it may recompute 30 %. */
  public String stem() {
    String recompute = recomputePercent == 0 ? "" : String.format(Locale.ROOT, "-r%02d", recomputePercent);
    return String.format(Locale.ROOT, "d%02d-q%02d", depth, quantizedLayers) + recompute;
  }

  /** Its stem, with the format where that is not ONNX. */
  public String label() {
    return format.equals("onnx") ? stem() : stem() + " " + format;
  }

  @Override
  public boolean equals(Object other) {
    if (!(other instanceof MemberKey)) {
      return false;
    }
    MemberKey key = (MemberKey) other;
    return depth == key.depth
        && quantizedLayers == key.quantizedLayers
        && recomputePercent == key.recomputePercent
        && format.equals(key.format);
  }

  @Override
  public int hashCode() {
    return label().hashCode();
  }
}
