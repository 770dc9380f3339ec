package org.quadloom.app.runtimes;

import java.util.Map;
import org.quadloom.core.Batch;
import org.quadloom.core.FloatTensor;
import org.quadloom.core.QuadloomException;
import org.quadloom.core.StepResult;
import org.quadloom.core.TensorSpec;

/** What goes into a graph and what comes out, by name; the same for every runtime. */
final class Feeds {
  /** Begins the name of the output that is a trained tensor's gradient; the tensor's name follows. */
  static final String GRADIENT_PREFIX = "gradient.";

  private Feeds() {}

  /**
   * The values of an input: {@code float[]} of a parameter, {@code long[]} of the batch.
   *
   * @throws QuadloomException there is nothing by that name
   */
  static Object input(TensorSpec spec, Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    switch (spec.name) {
      case "input_ids":
        return batch.inputIds;
      case "attention_mask":
        return batch.attentionMask;
      case "token_type_ids":
        return batch.tokenTypeIds;
      case "labels":
        return batch.labels;
      default:
        FloatTensor parameter = parameters.get(spec.name);
        if (parameter == null) {
          throw new QuadloomException(
              "the graph takes an input " + spec.name + ", which is no trainable tensor", Failures.FETCH_AGAIN);
        }
        return parameter.values();
    }
  }

  /**
   * A step's result.
   *
   * @throws QuadloomException the graph has given no loss or no counts
   */
  static StepResult result(Map<String, Double> scalars, Map<String, FloatTensor> gradients) throws QuadloomException {
    Double loss = scalars.get("loss");
    Double correct = scalars.get("correct_count");
    Double examples = scalars.get("example_count");
    if (loss == null || correct == null || examples == null) {
      throw new QuadloomException("the graph gives " + scalars.keySet() + " and no loss", Failures.FETCH_AGAIN);
    }
    return new StepResult(loss, correct.intValue(), examples.intValue(), gradients);
  }
}
