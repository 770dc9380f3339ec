package org.quadloom.core;

/** Bytes that are no strict JSON, or JSON that is not the message it should be; the message says why. */
final class JsonException extends Exception {
  private static final long serialVersionUID = 1;

  JsonException(String problem) {
    super(problem);
  }
}
