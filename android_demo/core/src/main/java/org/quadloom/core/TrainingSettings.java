package org.quadloom.core;

/** How a device trains in one round, as the server says. */
final class TrainingSettings {
  static final double NO_CLIPPING = 0;

  final boolean isAdamW;
  final double learningRate;
  final double headLearningRate;
  final double weightDecay;
  final int epochs;

  /** Optimizer steps per round at most; Integer.MAX_VALUE for no bound. */
  final int maxSteps;

  /** Batches per optimizer step. */
  final int accumulation;

  /** Bound on the gradient norm over all tensors, or {@link #NO_CLIPPING}. */
  final double clipNorm;

  /** Whether the learning rate falls in a line that reaches zero after the last step, instead of being constant. */
  final boolean isLinear;

  final long seed;
  final boolean classBalance;

  /** Read untrusted fields; a setting that is not known is refused, since it would change what the others mean. */
  TrainingSettings(JsonFields fields) throws JsonException {
    isAdamW = choice(fields, "optimizer", "adamw", "sgd");
    learningRate = fields.number("learning_rate", Double.MIN_VALUE, Double.MAX_VALUE, 2e-3);
    headLearningRate = fields.number("head_learning_rate", Double.MIN_VALUE, Double.MAX_VALUE, 1e-3);
    weightDecay = fields.number("weight_decay", 0, Double.MAX_VALUE, 0);
    epochs = fields.integer("epochs", 1, Integer.MAX_VALUE, 1);
    maxSteps = fields.integer("max_steps", 1, Integer.MAX_VALUE, Integer.MAX_VALUE);
    accumulation = fields.integer("accumulation", 1, Integer.MAX_VALUE, 1);
    clipNorm = fields.number("clip_norm", Double.MIN_VALUE, Double.MAX_VALUE, NO_CLIPPING);
    isLinear = !choice(fields, "schedule", "constant", "linear");
    seed = fields.any("seed") == null ? 0 : fields.whole("seed", 0, Long.MAX_VALUE);
    classBalance = fields.bool("class_balance", false);
    fields.end();
  }

  /** Optimizer steps that this much data gives. */
  int steps(int examples, int batchSize) {
    long batches = quotientUp(examples, batchSize);
    return (int) Math.min(maxSteps, epochs * quotientUp(batches, accumulation));
  }

  /** Learning rate of the 0-based {@code step} of {@code steps}. */
  double scheduled(double rate, int step, int steps) {
    return isLinear ? rate * (1 - (double) step / steps) : rate;
  }

  static long quotientUp(long dividend, long divisor) {
    return (dividend + divisor - 1) / divisor;
  }

  /** Whether a field says {@code first}, its default, rather than {@code second}. */
  private static boolean choice(JsonFields fields, String name, String first, String second) throws JsonException {
    String found = fields.any(name) == null ? first : fields.string(name);
    if (!found.equals(first) && !found.equals(second)) {
      throw fields.wrong(name, first + " or " + second);
    }
    return found.equals(first);
  }
}
