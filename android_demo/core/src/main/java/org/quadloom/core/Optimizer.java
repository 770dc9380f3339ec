package org.quadloom.core;

import java.util.Map;

/** Replaces values of parameters by better ones; the tensors themselves are left alone. */
interface Optimizer {
  /** One step over the tensors that have a gradient; {@code rates} holds the learning rate per tensor. */
  void update(Map<String, FloatTensor> parameters, Map<String, FloatTensor> gradients, Map<String, Double> rates);

  /** What a checkpoint must keep; changed by {@link #update}, and filled from a checkpoint before it. */
  Map<String, FloatTensor> state();
}
