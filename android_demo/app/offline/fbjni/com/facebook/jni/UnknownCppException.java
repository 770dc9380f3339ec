package com.facebook.jni;

/** Something that was thrown in C++ and is no {@code std::exception}. */
public class UnknownCppException extends CppException {
  public UnknownCppException() {
    super("unknown");
  }

  public UnknownCppException(String message) {
    super(message);
  }
}
