package org.quadloom.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Trains one member on the local data as {@code quadloom_runtime.trainer} does: same order, same batches, same formulas,
 * so that a device in Java and one in Python make the same update up to rounding.
 */
final class Trainer {
  /** Told after each optimizer step; may throw to end the training. */
  interface OnStep {
    void after(Checkpoint at, int steps) throws QuadloomException;
  }

  private final StepRuntime runtime;
  private final List<ParameterSpec> trained;
  private final EncodedData data;
  private final int batchSize;
  private final TrainingSettings settings;

  /** @param trained the rows of the parameter table that the member trains */
  Trainer(
      StepRuntime runtime,
      List<ParameterSpec> trained,
      EncodedData data,
      int batchSize,
      TrainingSettings settings) {
    this.runtime = runtime;
    this.trained = trained;
    this.data = data;
    this.batchSize = batchSize;
    this.settings = settings;
  }

  /**
   * Run the optimizer over the local data.
   *
   * @param parameters the global value of every row of the parameter table; left unchanged
   * @param at where an earlier, interrupted run with the same arguments stood, or a fresh one
   * @throws StepOutOfMemoryException a step did not fit
   * @throws QuadloomException the loss or a gradient is no longer a number, or the runtime gives what it should not
   */
  TrainingOutcome train(Map<String, FloatTensor> parameters, Checkpoint at, OnStep onStep) throws QuadloomException {
    Map<String, FloatTensor> current = new LinkedHashMap<>(parameters);
    current.putAll(at.parameters);
    Optimizer optimizer = settings.isAdamW ? new AdamW(settings.weightDecay) : new Sgd(settings.weightDecay);
    optimizer.state().putAll(at.optimizerState);
    at.optimizerState = optimizer.state();
    int steps = settings.steps(data.examples, batchSize);
    int stepsPerEpoch = stepsPerEpoch();
    int[] order = null;
    int orderedEpoch = -1;
    while (at.step < steps) {
      long started = System.nanoTime();
      int epoch = at.step / stepsPerEpoch;
      if (epoch != orderedEpoch) {
        order = order(epoch);
        orderedEpoch = epoch;
      }
      Map<String, FloatTensor> gradients = accumulate(current, order, at.step % stepsPerEpoch, at);
      check(gradients, at);
      if (settings.clipNorm != TrainingSettings.NO_CLIPPING) {
        Gradients.clip(gradients, settings.clipNorm);
      }
      optimizer.update(current, gradients, rates(at.step, steps));
      for (ParameterSpec row : trained) {
        at.parameters.put(row.name, current.get(row.name));
      }
      at.step++;
      at.trainS += (System.nanoTime() - started) / 1e9;
      onStep.after(at, steps);
    }
    return new TrainingOutcome(at, parameters, differentRows(at.step));
  }

  /** The mean gradient of one optimizer step; each batch weighs by its examples. Losses and rows go into {@code at}. */
  private Map<String, FloatTensor> accumulate(
      Map<String, FloatTensor> current, int[] order, int stepOfEpoch, Checkpoint at) throws QuadloomException {
    Map<String, FloatTensor> sum = new LinkedHashMap<>();
    long predictions = 0;
    int start = (int) Math.min(order.length, (long) stepOfEpoch * settings.accumulation * batchSize);
    int end = (int) Math.min(order.length, start + (long) settings.accumulation * batchSize);
    for (int first = start; first < end; first += batchSize) {
      int[] rows = Arrays.copyOfRange(order, first, Math.min(end, first + batchSize));
      StepResult result = runtime.step(current, data.batch(rows, batchSize));
      requireGradients(result.gradients);
      Gradients.add(sum, result.gradients, result.examples);
      predictions += result.examples;
      at.losses.add(result.loss);
      at.examples += rows.length;
      if (Double.isNaN(result.loss) || Double.isInfinite(result.loss)) {
        throw diverged("the loss of step " + (at.step + 1), result.loss);
      }
    }
    for (FloatTensor gradient : sum.values()) {
      float[] values = gradient.values();
      for (int i = 0; i < values.length; i++) {
        values[i] /= predictions;
      }
    }
    return sum;
  }

  private void requireGradients(Map<String, FloatTensor> gradients) throws QuadloomException {
    for (ParameterSpec row : trained) {
      FloatTensor gradient = gradients.get(row.name);
      if (gradient == null || !Arrays.equals(gradient.shape(), row.shape)) {
        throw new QuadloomException(
            "the runtime gave no gradient of shape " + Arrays.toString(row.shape) + " for " + row.name,
            "check the runtime of this device against the member's outputs");
      }
    }
  }

  /** Note the norms of the layers, and refuse numbers that are none. */
  private void check(Map<String, FloatTensor> gradients, Checkpoint at) throws QuadloomException {
    for (Map.Entry<Integer, Double> entry : Gradients.layerNorms(gradients, trained).entrySet()) {
      double norm = entry.getValue();
      if (Double.isNaN(norm) || Double.isInfinite(norm)) {
        throw diverged("the gradient of layer " + entry.getKey() + " in step " + (at.step + 1), norm);
      }
      if (!at.gradientNorms.containsKey(entry.getKey())) {
        at.gradientNorms.put(entry.getKey(), new ArrayList<Double>());
      }
      at.gradientNorms.get(entry.getKey()).add(norm);
    }
  }

  private static QuadloomException diverged(String what, double value) {
    return new QuadloomException(what + " is " + value + ", training diverged", "choose a lower learning rate");
  }

  private Map<String, Double> rates(int step, int steps) {
    double lora = settings.scheduled(settings.learningRate, step, steps);
    double head = settings.scheduled(settings.headLearningRate, step, steps);
    Map<String, Double> rates = new HashMap<>();
    for (ParameterSpec row : trained) {
      rates.put(row.name, row.layer == ParameterSpec.HEAD ? head : lora);
    }
    return rates;
  }

  private int stepsPerEpoch() {
    long batches = TrainingSettings.quotientUp(data.examples, batchSize);
    return (int) TrainingSettings.quotientUp(batches, settings.accumulation);
  }

  private int[] order(int epoch) {
    return settings.classBalance
        ? EpochOrder.balanced(data.labels, settings.seed, epoch)
        : EpochOrder.shuffled(data.examples, settings.seed, epoch);
  }

  /** Rows that the first steps have seen, each counted once. */
  private long differentRows(int steps) {
    BitSet seen = new BitSet(data.examples);
    int stepsPerEpoch = stepsPerEpoch();
    for (int epoch = 0; epoch * (long) stepsPerEpoch < steps; epoch++) {
      int[] order = order(epoch);
      long stepsOfEpoch = Math.min(stepsPerEpoch, steps - epoch * (long) stepsPerEpoch);
      long rows = Math.min(order.length, stepsOfEpoch * settings.accumulation * batchSize);
      for (int i = 0; i < rows; i++) {
        seen.set(order[i]);
      }
      if (seen.cardinality() == data.examples) {
        break;
      }
    }
    return seen.cardinality();
  }
}
