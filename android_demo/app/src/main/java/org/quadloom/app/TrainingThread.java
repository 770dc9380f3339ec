package org.quadloom.app;

import android.content.Context;
import android.os.PowerManager;
import java.util.List;
import org.quadloom.app.runtimes.InstalledRuntimes;
import org.quadloom.core.DeviceLoop;
import org.quadloom.core.QuadloomException;

/** Runs the device loop while the conditions hold, waits while they do not, and ends with the task. */
final class TrainingThread extends Thread {
  private static final long RETRY_AFTER_FAILURE_MS = 15 * 60_000;
  /** Broadcasts wake it sooner; this is for the case that one is missed. */
  private static final long CHECK_EVERY_MS = 60_000;

  private final Context context;
  private final SavedSettings settings;
  private final Conditions conditions;
  private final Runnable finished;
  private final ProgressBoard board = ProgressBoard.shared();
  private DeviceLoop running;
  private boolean ending;

  /**
   * @param finished runs on this thread when the server says that the task is finished
   */
  TrainingThread(Context context, Runnable finished) {
    super("training");
    this.context = context;
    this.finished = finished;
    settings = new SavedSettings(context);
    conditions = new Conditions(context);
  }

  @Override
  public void run() {
    // A thread that was told to end may still be at its last step: two loops must not share a folder.
    synchronized (TrainingThread.class) {
      work();
    }
  }

  private void work() {
    while (!isEnding()) {
      List<String> missing = conditions.missing();
      if (!missing.isEmpty()) {
        board.write("waiting for " + join(missing));
        pause(CHECK_EVERY_MS);
        continue;
      }
      try {
        if (train() == DeviceLoop.End.FINISHED) {
          board.write(context.getString(R.string.task_finished));
          finished.run();
          return;
        }
      } catch (QuadloomException | RuntimeException | LinkageError error) {
        // The person reads it; whatever it was, tomorrow's server or network may be another.
        pauseAfter(error.getMessage());
      } catch (OutOfMemoryError error) {
        // Android would start an app that ends of it again at once, and again.
        pauseAfter("the app's memory did not suffice: " + error.getMessage());
      }
    }
    board.write("stopped; progress is kept");
  }

  /** The charger, the network or the screen is not what it was. */
  void conditionsChanged() {
    boolean mayTrain = conditions.missing().isEmpty();
    synchronized (this) {
      if (running != null && !mayTrain) {
        running.stop();
      }
      notifyAll();
    }
  }

  /** End soon, with progress kept. */
  synchronized void end() {
    ending = true;
    if (running != null) {
      running.stop();
    }
    notifyAll();
  }

  private DeviceLoop.End train() throws QuadloomException {
    DeviceLoop loop =
        new DeviceLoop(
            settings.deviceSettings(),
            settings.deviceFolder(),
            ExampleFile.read(settings.dataFile()),
            new InstalledRuntimes(),
            board);
    PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
    PowerManager.WakeLock awake = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "quadloom:training");
    awake.acquire();
    try {
      setRunning(loop);
      return loop.run();
    } finally {
      setRunning(null);
      awake.release();
    }
  }

  /** From here on {@link #end} and {@link #conditionsChanged} stop the loop; if they came before, it is stopped now. */
  private void setRunning(DeviceLoop loop) {
    boolean mayTrain = conditions.missing().isEmpty();
    synchronized (this) {
      running = loop;
      if (loop != null && (ending || !mayTrain)) {
        loop.stop();
      }
    }
  }

  private void pauseAfter(String problem) {
    board.write(problem + " (tries again within 15 minutes)");
    pause(RETRY_AFTER_FAILURE_MS);
  }

  private synchronized boolean isEnding() {
    return ending;
  }

  private synchronized void pause(long milliseconds) {
    try {
      if (!ending) {
        wait(milliseconds);
      }
    } catch (InterruptedException interrupted) {
      ending = true;
    }
  }

  private static String join(List<String> words) {
    StringBuilder joined = new StringBuilder();
    for (int index = 0; index < words.size(); index++) {
      joined.append(index == 0 ? "" : index == words.size() - 1 ? " and " : ", ").append(words.get(index));
    }
    return joined.toString();
  }
}
