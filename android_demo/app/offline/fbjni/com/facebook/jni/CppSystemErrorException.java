package com.facebook.jni;

/** A {@code std::system_error}. */
public class CppSystemErrorException extends CppException {
  private final int errorCode;

  public CppSystemErrorException(String message, int errorCode) {
    super(message);
    this.errorCode = errorCode;
  }

  /** What the system calls it. */
  public int getErrorCode() {
    return errorCode;
  }
}
