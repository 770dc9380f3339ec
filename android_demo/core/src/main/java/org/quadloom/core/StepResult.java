package org.quadloom.core;

import java.util.Map;

/** What one run of a training graph gives. */
public final class StepResult {
  /** Mean loss over the examples that count. */
  public final double loss;

  /** Right predictions among them. */
  public final int correct;

  /** How many there are: the rows of the batch without its padding. */
  public final int examples;

  /** The gradient of each trained tensor, by the tensor's name, in the tensor's shape. */
  public final Map<String, FloatTensor> gradients;

  public StepResult(double loss, int correct, int examples, Map<String, FloatTensor> gradients) {
    this.loss = loss;
    this.correct = correct;
    this.examples = examples;
    this.gradients = gradients;
  }
}
