package org.quadloom.core;

import java.io.Closeable;
import java.util.Map;

/**
 * Runs one member's training graph. One thread at a time uses it.
 *
 * <p>Inputs and outputs of the graph are those of {@link Member#inputs} and {@link Member#outputs}, in this order: an input
 * is a parameter by its name, or one of {@code input_ids}, {@code attention_mask}, {@code token_type_ids}, {@code labels};
 * outputs are {@code loss}, {@code correct_count}, {@code example_count} and {@code gradient.<name of a tensor>}.
 */
public interface StepRuntime extends Closeable {
  /**
   * Forward and backward.
   *
   * @param parameters every tensor of the parameter table, trained or not, in the shapes of the table; to be left as they
   *     are
   * @throws StepOutOfMemoryException the step did not fit the memory
   * @throws QuadloomException the graph does not run
   */
  StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException;

  /** Let go of the graph and its memory. */
  @Override
  void close();
}
