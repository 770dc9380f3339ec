package org.quadloom.core;

/** Passes on what a device does; some words are the server's, and what is not printable must not reach a screen. */
final class PrintableProgress implements TrainingProgress {
  private final TrainingProgress listener;

  PrintableProgress(TrainingProgress listener) {
    this.listener = listener;
  }

  @Override
  public void said(String event, String line) {
    StringBuilder printable = new StringBuilder(line.length());
    for (int i = 0; i < line.length(); i += Character.charCount(line.codePointAt(i))) {
      int letter = line.codePointAt(i);
      int type = Character.getType(letter);
      boolean isPrintable =
          type != Character.CONTROL && type != Character.FORMAT && type != Character.SURROGATE && type != 0;
      printable.appendCodePoint(isPrintable ? letter : ' ');
    }
    listener.said(event, printable.toString());
  }

  @Override
  public void stepped(int roundIndex, int step, int steps, double loss, long peakStepBytes) {
    listener.stepped(roundIndex, step, steps, loss, peakStepBytes);
  }
}
