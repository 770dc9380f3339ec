package com.facebook.soloader.nativeloader;

/** Loads them as the system does, which ignores what is loaded already. */
public class SystemDelegate implements NativeLoaderDelegate {
  @Override
  public boolean loadLibrary(String name) {
    System.loadLibrary(name);
    return true;
  }
}
