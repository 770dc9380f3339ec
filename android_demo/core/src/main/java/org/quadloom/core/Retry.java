package org.quadloom.core;

import java.io.IOException;
import java.util.Random;

/**
 * Tries again with exponential backoff and full jitter, until patience runs out: waits are uniform between 0 and a bound
 * that doubles, so that no fleet comes in step.
 */
final class Retry {
  private static final double FIRST_BOUND_S = 0.5;
  private static final double LARGEST_BOUND_S = 30;

  /** Something that may fail for a while. */
  interface Attempt<R> {
    R run() throws IOException, QuadloomException;

    /** A number that grows while it gets somewhere, which renews patience. */
    long progress();
  }

  private final String server;
  private final double patienceS;
  private final StopSignal stop;
  private final TrainingProgress progress;
  private final Random random = new Random();

  Retry(String server, double patienceS, StopSignal stop, TrainingProgress progress) {
    this.server = server;
    this.patienceS = patienceS;
    this.stop = stop;
    this.progress = progress;
  }

  /**
   * The first success of an attempt.
   *
   * @throws ServerUnreachableException it failed for too long
   */
  <R> R run(Attempt<R> attempt) throws QuadloomException {
    long reached = attempt.progress();
    double giveUpAtS = Double.NaN;
    double boundS = FIRST_BOUND_S;
    while (true) {
      stop.check();
      try {
        return attempt.run();
      } catch (IOException error) {
        if (Double.isNaN(giveUpAtS) || attempt.progress() > reached) {
          reached = attempt.progress();
          giveUpAtS = nowS() + patienceS;
          boundS = FIRST_BOUND_S;
        }
        double waitS = random.nextDouble() * boundS;
        waitS += error instanceof TryAgainException ? ((TryAgainException) error).afterS : 0;
        boundS = Math.min(2 * boundS, LARGEST_BOUND_S);
        if (nowS() + waitS > giveUpAtS) {
          throw new ServerUnreachableException(server, patienceS, String.valueOf(error));
        }
        progress.said("retrying", server + " does not answer (" + error + "), trying again");
        stop.sleep(waitS);
      }
    }
  }

  private static double nowS() {
    return System.nanoTime() / 1e9;
  }
}
