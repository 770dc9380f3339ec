package org.quadloom.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What training gives: the change of each trained tensor, and figures for the report. */
final class TrainingOutcome {
  final Map<String, FloatTensor> update = new LinkedHashMap<>();

  /** Different examples that the update rests on. */
  final long examples;

  final int steps;
  final double trainS;

  /** Mean loss of the first and the last tenth of the batches. */
  final double lossFirst;

  final double lossLast;

  /** Of each trained layer, from the input on, the median of its gradient norms over the steps. */
  final List<Double> gradientNorms = new ArrayList<>();

  TrainingOutcome(Checkpoint at, Map<String, FloatTensor> old, long differentExamples) {
    for (Map.Entry<String, FloatTensor> entry : at.parameters.entrySet()) {
      update.put(entry.getKey(), change(old.get(entry.getKey()), entry.getValue()));
    }
    examples = Math.min(at.examples, differentExamples);
    steps = at.step;
    trainS = at.trainS;
    int count = at.losses.size();
    int tenth = Math.max(1, count / 10);
    lossFirst = mean(at.losses.subList(0, tenth));
    lossLast = mean(at.losses.subList(count - tenth, count));
    for (List<Double> norms : at.gradientNorms.values()) {
      gradientNorms.add(median(norms));
    }
  }

  private static FloatTensor change(FloatTensor old, FloatTensor current) {
    float[] change = new float[current.values().length];
    for (int i = 0; i < change.length; i++) {
      change[i] = current.values()[i] - old.values()[i];
    }
    return new FloatTensor(current.shape(), change);
  }

  private static double mean(List<Double> numbers) {
    double sum = 0;
    for (double each : numbers) {
      sum += each;
    }
    return sum / numbers.size();
  }

  private static double median(List<Double> numbers) {
    List<Double> sorted = new ArrayList<>(numbers);
    Collections.sort(sorted);
    int middle = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted.get(middle) : (sorted.get(middle - 1) + sorted.get(middle)) / 2;
  }
}
