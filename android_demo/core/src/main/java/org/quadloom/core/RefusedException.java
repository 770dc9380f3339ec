package org.quadloom.core;

/** The server answered and said no. */
final class RefusedException extends QuadloomException {
  private static final long serialVersionUID = 1;

  /** The server's word for why. */
  final String code;

  RefusedException(int status, Refusal refusal) {
    super("the server refused (" + status + " " + refusal.code + "): " + refusal.cause, refusal.remedy);
    this.code = refusal.code;
  }
}
