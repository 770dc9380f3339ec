package org.quadloom.core;

import java.util.HashMap;
import java.util.Map;

/** Plain stochastic gradient descent as {@code torch.optim.SGD} computes it. It has no state. */
final class Sgd implements Optimizer {
  private final float weightDecay;
  private final Map<String, FloatTensor> state = new HashMap<>();

  Sgd(double weightDecay) {
    this.weightDecay = (float) weightDecay;
  }

  @Override
  public void update(
      Map<String, FloatTensor> parameters, Map<String, FloatTensor> gradients, Map<String, Double> rates) {
    for (Map.Entry<String, FloatTensor> entry : gradients.entrySet()) {
      float[] gradient = entry.getValue().values();
      float[] old = parameters.get(entry.getKey()).values();
      float rate = rates.get(entry.getKey()).floatValue();
      float[] next = new float[old.length];
      for (int i = 0; i < next.length; i++) {
        next[i] = old[i] - rate * (gradient[i] + weightDecay * old[i]);
      }
      parameters.put(entry.getKey(), new FloatTensor(entry.getValue().shape(), next));
    }
  }

  @Override
  public Map<String, FloatTensor> state() {
    return state;
  }
}
