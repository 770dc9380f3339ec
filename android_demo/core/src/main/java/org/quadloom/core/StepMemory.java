package org.quadloom.core;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * Peak anonymous memory of this process beyond what it had when the meter was made, sampled by a thread during steps.
 *
 * <p>The heap of Java counts too: what its collector has not freed yet makes the peak look larger than the step.
 */
final class StepMemory {
  private static final File STATUS = new File("/proc/self/status");
  private static final String ANONYMOUS = "RssAnon:";
  private static final long SAMPLING_INTERVAL_MS = 2;

  /** Anonymous memory of the loaded, idle runtime; 0 if the platform does not tell. */
  final long baselineBytes = anonymousBytes();

  private volatile long peakBytes;
  private volatile boolean isWatching;
  private Thread watcher;

  /** Largest anonymous memory beyond the baseline so far. */
  long peakBytes() {
    return peakBytes;
  }

  /** A step begins. */
  void begin() {
    isWatching = true;
    watcher =
        new Thread("quadloom-step-memory") {
          @Override
          public void run() {
            while (isWatching) {
              sample();
              try {
                Thread.sleep(SAMPLING_INTERVAL_MS);
              } catch (InterruptedException error) {
                return;
              }
            }
          }
        };
    watcher.setDaemon(true);
    watcher.start();
  }

  /** The step has ended. */
  void end() {
    isWatching = false;
    try {
      watcher.join();
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
    sample();
  }

  private void sample() {
    long beyond = anonymousBytes() - baselineBytes;
    if (beyond > peakBytes) {
      peakBytes = beyond;
    }
  }

  private static long anonymousBytes() {
    try (BufferedReader lines =
        new BufferedReader(new InputStreamReader(new FileInputStream(STATUS), StandardCharsets.US_ASCII))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (line.startsWith(ANONYMOUS)) {
          return 1024 * Long.parseLong(line.replaceAll("[^0-9]", ""));
        }
      }
    } catch (IOException error) {
      // Told as unknown.
    }
    return 0;
  }
}
