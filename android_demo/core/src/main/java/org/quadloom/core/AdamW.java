package org.quadloom.core;

import java.util.HashMap;
import java.util.Map;

/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101) as {@code torch.optim.AdamW} and the Python device compute it.
 *
 * <p>State per tensor: {@code <name>/mean} and {@code <name>/square}; for all tensors {@code step}, of shape (1).
 */
final class AdamW implements Optimizer {
  private static final double BETA1 = 0.9;
  private static final double BETA2 = 0.999;
  private static final float EPSILON = 1e-8f;
  private static final String STEP = "step";

  private final double weightDecay;
  private final Map<String, FloatTensor> state = new HashMap<>();

  AdamW(double weightDecay) {
    this.weightDecay = weightDecay;
  }

  @Override
  public void update(
      Map<String, FloatTensor> parameters, Map<String, FloatTensor> gradients, Map<String, Double> rates) {
    int step = 1 + (state.containsKey(STEP) ? (int) state.get(STEP).values()[0] : 0);
    state.put(STEP, new FloatTensor(new long[] {1}, new float[] {step}));
    for (Map.Entry<String, FloatTensor> entry : gradients.entrySet()) {
      String name = entry.getKey();
      parameters.put(name, updated(name, parameters.get(name), entry.getValue(), rates.get(name), step));
    }
  }

  @Override
  public Map<String, FloatTensor> state() {
    return state;
  }

  /** {@code p - rate weightDecay p - rate mean' / (sqrt(square') + epsilon)}, primes being bias-corrected. */
  private FloatTensor updated(String name, FloatTensor old, FloatTensor gradient, double rate, int step) {
    float[] mean = stateOf(name + "/mean", gradient);
    float[] square = stateOf(name + "/square", gradient);
    float shrinking = (float) (1 - rate * weightDecay);
    float stepSize = (float) (rate / (1 - Math.pow(BETA1, step)));
    float correction = (float) Math.sqrt(1 - Math.pow(BETA2, step));
    float[] values = old.values();
    float[] slope = gradient.values();
    float[] next = new float[values.length];
    for (int i = 0; i < next.length; i++) {
      mean[i] = (float) BETA1 * mean[i] + (float) (1 - BETA1) * slope[i];
      square[i] = (float) BETA2 * square[i] + (float) (1 - BETA2) * slope[i] * slope[i];
      float denominator = (float) Math.sqrt(square[i]) / correction + EPSILON;
      next[i] = values[i] * shrinking - stepSize * mean[i] / denominator;
    }
    return new FloatTensor(old.shape(), next);
  }

  /** An array of the state, zeros at first; the optimizer's own, so it may change in place. */
  private float[] stateOf(String key, FloatTensor like) {
    if (!state.containsKey(key)) {
      state.put(key, new FloatTensor(like.shape(), new float[like.values().length]));
    }
    return state.get(key).values();
  }
}
