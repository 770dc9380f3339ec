package org.quadloom.core;

/** Lets one thread end the work of another at a place where that looks. */
final class StopSignal {
  private boolean isSet;

  synchronized void set() {
    isSet = true;
    notifyAll();
  }

  /** @throws StoppedException it was set, or the thread was interrupted */
  synchronized void check() {
    if (isSet || Thread.currentThread().isInterrupted()) {
      throw new StoppedException();
    }
  }

  /**
   * Let time pass, unless it is set.
   *
   * @throws StoppedException it was set, or the thread was interrupted
   */
  synchronized void sleep(double seconds) {
    long end = System.nanoTime() + (long) (seconds * 1e9);
    check();
    for (long left = end - System.nanoTime(); left > 0; left = end - System.nanoTime()) {
      try {
        wait(left / 1_000_000, (int) (left % 1_000_000));
      } catch (InterruptedException error) {
        Thread.currentThread().interrupt();
      }
      check();
    }
  }
}
