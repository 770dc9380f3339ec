package com.facebook.jni;

import com.facebook.soloader.nativeloader.NativeLoader;

/** Runs C++ on a C++ thread with the class loader of this class. */
public class ThreadScopeSupport {
  static {
    NativeLoader.loadLibrary("fbjni");
  }

  private static void runStdFunction(long pointer) {
    runStdFunctionImpl(pointer);
  }

  private static native void runStdFunctionImpl(long pointer);
}
