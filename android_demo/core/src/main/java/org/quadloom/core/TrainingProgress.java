package org.quadloom.core;

/** Told what a device does, on the thread of {@link DeviceLoop#run}; must return soon. */
public interface TrainingProgress {
  /**
   * Something happened.
   *
   * @param event one word for programs: enrolled, assigned, downloading, fetched, trained, reported, out-of-memory, failed,
   *     failure-reported, refused, retrying, waiting, finished, stopped
   * @param line a line for people, of printable characters
   */
  void said(String event, String line);

  /**
   * One optimizer step is made.
   *
   * @param roundIndex the round, from 1
   * @param step steps made in this round, of {@code steps}
   * @param loss mean loss of the step's last batch
   * @param peakStepBytes largest anonymous memory of this process during a step so far, beyond that of the loaded, idle
   *     runtime
   */
  void stepped(int roundIndex, int step, int steps, double loss, long peakStepBytes);
}
