package org.quadloom.core;

/** What went wrong with which value, and what to do about it; both are for people. */
public class QuadloomException extends Exception {
  private static final long serialVersionUID = 1;

  private final String remedy;

  public QuadloomException(String cause, String remedy) {
    super(cause + "; " + remedy);
    this.remedy = remedy;
  }

  /** What to do about it. */
  public String remedy() {
    return remedy;
  }
}
