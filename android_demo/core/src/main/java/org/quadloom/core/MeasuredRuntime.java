package org.quadloom.core;

import java.util.Map;

/** Measures the memory of each step, and takes more than the device grants for a step that did not fit. */
final class MeasuredRuntime implements StepRuntime {
  final StepMemory memory = new StepMemory();
  private final StepRuntime runtime;
  private final Member member;
  private final long limitBytes;

  /** To be made when the runtime is loaded and idle. */
  MeasuredRuntime(StepRuntime runtime, Member member, long limitBytes) {
    this.runtime = runtime;
    this.member = member;
    this.limitBytes = limitBytes;
  }

  @Override
  public StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    StepResult result;
    memory.begin();
    try {
      result = runtime.step(parameters, batch);
    } catch (OutOfMemoryError error) {
      throw new StepOutOfMemoryException(member.key.label(), String.valueOf(error.getMessage()));
    } finally {
      memory.end();
    }
    if (memory.peakBytes() > limitBytes) {
      throw new StepOutOfMemoryException(
          member.key.label(), "it took " + memory.peakBytes() + " bytes, and " + limitBytes + " are granted");
    }
    return result;
  }

  @Override
  public void close() {
    runtime.close();
  }
}
