package org.quadloom.core;

import java.io.File;
import java.util.List;

/**
 * One device: enrols, checks in, fetches, trains, reports, until the task is finished or somebody stops it.
 *
 * <p>Everything that it keeps lies below its folder: its key, files of the family, and progress. A loop on the same folder
 * goes on where a stopped or killed one was.
 */
public final class DeviceLoop {
  /** Why {@link #run} returned. */
  public enum End {
    /** The server says that the task is finished. */
    FINISHED,
    /** {@link #stop} was called; progress is kept. */
    STOPPED
  }

  /**
   * @param folder private to this device
   * @param examples the local data, which never leaves the device
   */
  public DeviceLoop(
      DeviceSettings settings,
      File folder,
      List<Example> examples,
      StepRuntimeFactory runtimes,
      TrainingProgress progress) {}

  /**
   * Work, on the thread of the caller.
   *
   * @throws QuadloomException the server does not answer for as long as patience lasts or refuses this device, or the
   *     settings or the data do not fit
   */
  public End run() throws QuadloomException {
    throw new UnsupportedOperationException();
  }

  /** Make {@link #run} return soon, from any thread: after the step that is under way, with progress kept. */
  public void stop() {}
}
