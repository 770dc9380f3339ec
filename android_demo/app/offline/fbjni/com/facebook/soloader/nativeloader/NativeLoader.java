package com.facebook.soloader.nativeloader;

/** Whom ExecuTorch and fbjni ask for native libraries. */
public final class NativeLoader {
  private static NativeLoaderDelegate delegate;

  private NativeLoader() {}

  /** Whether somebody has said how to load. */
  public static synchronized boolean isInitialized() {
    return delegate != null;
  }

  /** Say how to load. */
  public static synchronized void init(NativeLoaderDelegate chosen) {
    delegate = chosen;
  }

  /** Load {@code lib<name>.so}; as the system does, if nobody has said how. */
  public static synchronized boolean loadLibrary(String name) {
    if (delegate == null) {
      delegate = new SystemDelegate();
    }
    return delegate.loadLibrary(name);
  }
}
