package com.facebook.soloader.nativeloader;

/** Loads native libraries. */
public interface NativeLoaderDelegate {
  /** Load {@code lib<name>.so} unless it is loaded; whether it was loaded by this call. */
  boolean loadLibrary(String name);
}
