package org.quadloom.app;

/** Made by the build of the app. */
final class R {
  static final class string {
    static final int task_finished = 1;
  }
}
