package org.quadloom.app;

import java.util.Locale;
import org.quadloom.core.TrainingProgress;

/** Where training writes what it does, and screen and notification read it; one per process. */
final class ProgressBoard implements TrainingProgress {
  /** Told that the board says something new, on the thread that wrote it. */
  interface Reader {
    void boardChanged();
  }

  private static final ProgressBoard SHARED = new ProgressBoard();

  private String state = "";
  private String figures = "";
  private Reader screen;
  private Reader notification;

  private ProgressBoard() {}

  static ProgressBoard shared() {
    return SHARED;
  }

  /** What happened last, in a line; empty before anything did in this process. */
  synchronized String state() {
    return state;
  }

  /** Round, step, loss and peak memory; empty before the first step. */
  synchronized String figures() {
    return figures;
  }

  /** Who shows the board on the screen; null for nobody. */
  synchronized void setScreen(Reader reader) {
    screen = reader;
  }

  /** Who shows it in the notification; null for nobody. */
  synchronized void setNotification(Reader reader) {
    notification = reader;
  }

  /** Write a line of the app's own. */
  void write(String line) {
    synchronized (this) {
      state = line;
    }
    tell();
  }

  @Override
  public void said(String event, String line) {
    write(line);
  }

  @Override
  public void stepped(int roundIndex, int step, int steps, double loss, long peakStepBytes) {
    synchronized (this) {
      figures =
          String.format(
              Locale.ROOT,
              "round %d, step %d of %d, loss %.4f, peak memory of a step %.1f MB",
              roundIndex, step, steps, loss, peakStepBytes / 1e6);
    }
    tell();
  }

  private void tell() {
    Reader onScreen;
    Reader inNotification;
    synchronized (this) {
      onScreen = screen;
      inNotification = notification;
    }
    if (onScreen != null) {
      onScreen.boardChanged();
    }
    if (inNotification != null) {
      inNotification.boardChanged();
    }
  }
}
