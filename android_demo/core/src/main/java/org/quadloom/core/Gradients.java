package org.quadloom.core;

import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Sums, norms and clipping of gradients, by tensor. */
final class Gradients {
  private Gradients() {}

  /** L2 norm over all tensors together. */
  static double norm(Collection<FloatTensor> tensors) {
    double squares = 0;
    for (FloatTensor tensor : tensors) {
      for (float each : tensor.values()) {
        squares += (double) each * each;
      }
    }
    return Math.sqrt(squares);
  }

  /** L2 norm of each trained layer over all of its tensors together; the head has none. */
  static Map<Integer, Double> layerNorms(Map<String, FloatTensor> gradients, List<ParameterSpec> trained) {
    TreeMap<Integer, List<FloatTensor>> ofLayer = new TreeMap<>();
    for (ParameterSpec row : trained) {
      if (row.layer != ParameterSpec.HEAD) {
        if (!ofLayer.containsKey(row.layer)) {
          ofLayer.put(row.layer, new ArrayList<FloatTensor>());
        }
        ofLayer.get(row.layer).add(gradients.get(row.name));
      }
    }
    Map<Integer, Double> norms = new LinkedHashMap<>();
    for (Map.Entry<Integer, List<FloatTensor>> entry : ofLayer.entrySet()) {
      norms.put(entry.getKey(), norm(entry.getValue()));
    }
    return norms;
  }

  /** Scale all gradients, in place, so that their common norm is at most {@code limit}, as torch's clip_grad_norm_. */
  static void clip(Map<String, FloatTensor> gradients, double limit) {
    scale(gradients, (float) Math.min(1, limit / (norm(gradients.values()) + 1e-6)));
  }

  /** Multiply all values in place. */
  static void scale(Map<String, FloatTensor> gradients, float factor) {
    for (FloatTensor gradient : gradients.values()) {
      float[] values = gradient.values();
      for (int i = 0; i < values.length; i++) {
        values[i] *= factor;
      }
    }
  }

  /** Add {@code weight} times the gradients to a sum, whose tensors are its own. */
  static void add(Map<String, FloatTensor> sum, Map<String, FloatTensor> gradients, float weight) {
    for (Map.Entry<String, FloatTensor> entry : gradients.entrySet()) {
      float[] added = entry.getValue().values();
      if (!sum.containsKey(entry.getKey())) {
        sum.put(entry.getKey(), new FloatTensor(entry.getValue().shape(), new float[added.length]));
      }
      float[] values = sum.get(entry.getKey()).values();
      for (int i = 0; i < values.length; i++) {
        values[i] += weight * added[i];
      }
    }
  }
}
