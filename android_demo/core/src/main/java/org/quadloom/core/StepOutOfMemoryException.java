package org.quadloom.core;

/** A training step did not fit the memory; the server then assigns a smaller member. */
public final class StepOutOfMemoryException extends QuadloomException {
  private static final long serialVersionUID = 1;

  public StepOutOfMemoryException(String member, String detail) {
    super("a step of member " + member + " did not fit the memory: " + detail, "train a smaller member");
  }
}
