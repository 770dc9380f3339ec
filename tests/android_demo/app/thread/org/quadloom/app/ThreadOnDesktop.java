package org.quadloom.app;

import android.content.Context;

/** Runs the app's training thread until it waits for another attempt, prints what its board says then, and ends it. */
public final class ThreadOnDesktop {
  private static final long LONGEST_END_MS = 10_000;

  private ThreadOnDesktop() {}

  public static void main(String[] arguments) throws InterruptedException {
    TrainingThread thread = new TrainingThread(new Context(), () -> {});
    thread.start();
    while (thread.isAlive() && thread.getState() != Thread.State.TIMED_WAITING) {
      Thread.sleep(10);
    }
    System.out.println(ProgressBoard.shared().state());
    thread.end();
    thread.join(LONGEST_END_MS);
    System.out.println(ProgressBoard.shared().state());
  }
}
