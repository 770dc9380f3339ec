package org.quadloom.core;

import java.io.IOException;

/** The server is there but cannot answer just now. */
final class TryAgainException extends IOException {
  private static final long serialVersionUID = 1;

  /** Seconds for which it asked to be left alone. */
  final double afterS;

  TryAgainException(String cause, double afterS) {
    super(cause);
    this.afterS = afterS;
  }
}
