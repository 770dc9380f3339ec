package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.time.Clock;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * One device: enrols, checks in, fetches, trains, reports, until the task is finished or somebody stops it.
 *
 * <p>Everything that it keeps lies below its folder: its key, files of the family, and progress. A new loop on the same
 * folder goes on where a stopped or killed one was.
 */
public final class DeviceLoop {
  private static final double RETRY_AFTER_REFUSAL_S = 5;
  /** A device comes back up to this share later than it was told, so that a fleet does not come in step. */
  private static final double LATEST_EXTRA = 0.1;

  private static final int LONGEST_MESSAGE = 4000;

  private final DeviceSettings settings;
  private final List<Example> examples;
  private final StepRuntimeFactory runtimes;
  private final TrainingProgress progress;
  private final StopSignal stop = new StopSignal();
  private final Random random = new Random();
  private final DeviceState state;
  private final ServerClient client;
  private final FamilyCopy family;
  private final AssignmentWork work;
  private double[] lastUpload;

  /** Why {@link #run} returned. */
  public enum End {
    /** The server says that the task is finished. */
    FINISHED,
    /** {@link #stop} was called; progress is kept. */
    STOPPED
  }

  /**
   * @param folder private to this device; its key is made there at the first start
   * @param examples the local data, at least one; it never leaves the device
   * @throws QuadloomException the settings are wrong, or the folder cannot be used
   */
  public DeviceLoop(
      DeviceSettings settings,
      File folder,
      List<Example> examples,
      StepRuntimeFactory runtimes,
      TrainingProgress progress)
      throws QuadloomException {
    this(settings, folder, examples, runtimes, progress, Clock.systemUTC());
  }

  /** @param clock what the device takes for the time */
  DeviceLoop(
      DeviceSettings settings,
      File folder,
      List<Example> examples,
      StepRuntimeFactory runtimes,
      TrainingProgress progress,
      Clock clock)
      throws QuadloomException {
    this.settings = settings;
    this.examples = examples;
    this.runtimes = runtimes;
    this.progress = new PrintableProgress(progress);
    if (examples.isEmpty()) {
      throw new QuadloomException("there are 0 examples to train on", "give at least one labelled text");
    }
    ServerAddress address = new ServerAddress(settings.server, settings.allowUnencryptedHttp);
    byte[] familyKey =
        settings.familyKeyPem == null
            ? null
            : Ed25519Pem.parsePublicKey(settings.familyKeyPem, "the family key of the settings");
    DurableFiles.makeFolder(folder);
    RequestSigner signer = new RequestSigner(DeviceKey.seed(folder), clock);
    Retry retry = new Retry(address.toString(), settings.patienceS, stop, this.progress);
    state = new DeviceState(new File(folder, "state"));
    client = new ServerClient(new SignedHttp(address, signer), retry, stop);
    family = new FamilyCopy(folder, client, this.progress, familyKey);
    work = new AssignmentWork(settings, state, family, client, runtimes, examples, this.progress, stop);
  }

  /**
   * Work, on the thread of the caller, once.
   *
   * @throws ServerUnreachableException no answer for as long as patience lasts
   * @throws QuadloomException the server refuses this device, the data do not fit the family, or another loop uses the
   *     folder
   */
  public End run() throws QuadloomException {
    try (FileChannel lock = state.lock()) {
      untilFinished();
      return End.FINISHED;
    } catch (StoppedException stopped) {
      progress.said("stopped", "stopped; progress is kept");
      return End.STOPPED;
    } catch (IOException error) {
      throw new QuadloomException("the lock of the device's folder cannot be closed: " + error, "start again");
    }
  }

  /** Make {@link #run} return soon, from any thread: after the step that is under way, with progress kept. */
  public void stop() {
    stop.set();
  }

  private void untilFinished() throws QuadloomException {
    String deviceId = enrol();
    while (true) {
      Answers.CheckedIn answer;
      try {
        answer = client.checkIn(deviceId);
      } catch (RefusedException error) {
        if (!error.code.equals("unknown-device")) {
          throw error;
        }
        sleep(RETRY_AFTER_REFUSAL_S);
        deviceId = enrol(); // the server began anew and knows nobody
        continue;
      }
      if (answer.assignment != null) {
        sleep(work(answer.assignment));
      } else if (answer.isFinished) {
        progress.said("finished", "finished: " + answer.reason);
        return;
      } else {
        progress.said("waiting", answer.reason);
        sleep(answer.retryAfterS);
      }
    }
  }

  /** Enrol, and check the local data against the family before any work is taken. */
  private String enrol() throws QuadloomException {
    Answers.Enrolled answer = client.enrol(settings.name, capabilities(), settings.enrolmentToken);
    progress.said("enrolled", "enrolled as " + settings.name + " with " + examples.size() + " examples");
    Manifest manifest = family.manifest(answer.manifestSha256, answer.manifestSignature);
    for (int i = 0; i < examples.size(); i++) {
      int label = examples.get(i).label;
      if (label < 0 || label >= manifest.numLabels) {
        throw new QuadloomException(
            "example " + (i + 1) + ": label " + label + " is outside 0.." + (manifest.numLabels - 1),
            "number the labels from 0, as the task does");
      }
    }
    return answer.deviceId;
  }

  private Map<String, Object> capabilities() {
    Map<String, Object> found = new LinkedHashMap<>();
    found.put("formats", runtimes.formats());
    found.put("memory_limit_bytes", settings.memoryLimitBytes);
    found.put("threads", settings.threads);
    found.put("examples", examples.size());
    found.put("profile", settings.profile);
    found.put("slowdown", settings.slowdown);
    found.put("rank", settings.rank == 0 ? null : (Object) settings.rank);
    return found;
  }

  /** One assignment from download to report; returns after how many seconds to check in. What goes wrong is reported. */
  private double work(Assignment assignment) throws QuadloomException {
    progress.said("assigned", "round " + assignment.roundIndex + ": " + assignment.member.label() + ", " + assignment.reason);
    state.forgetAllBut(assignment.assignmentId);
    try {
      byte[] update = state.loadUpdate(assignment.assignmentId);
      return reportUpdate(assignment, update == null ? work.update(assignment, lastUpload) : update);
    } catch (ServerUnreachableException | StoppedException error) {
      throw error;
    } catch (StepOutOfMemoryException error) {
      return reportFailure(assignment, "out-of-memory", error.getMessage());
    } catch (OutOfMemoryError | LinkageError error) {
      // Outside of the steps, whose memory is the member's; it would end the whole app, and the next start again.
      return reportFailure(assignment, "other", error.toString());
    } catch (QuadloomException | RuntimeException error) {
      boolean isExpected = error instanceof QuadloomException;
      return reportFailure(assignment, "other", isExpected ? error.getMessage() : error.toString());
    }
  }

  private double reportUpdate(Assignment assignment, byte[] update) throws QuadloomException {
    long started = System.nanoTime();
    Answers.Reported answer = client.reportUpdate(assignment, update);
    lastUpload = new double[] {update.length, (System.nanoTime() - started) / 1e9};
    return answered("reported", assignment, answer);
  }

  private double reportFailure(Assignment assignment, String kind, String message) throws QuadloomException {
    String line = "round " + assignment.roundIndex + ": " + message;
    progress.said(kind.equals("out-of-memory") ? kind : "failed", line);
    String shortened = message.substring(0, Math.min(message.length(), LONGEST_MESSAGE));
    try {
      return answered("failure-reported", assignment, client.reportFailure(assignment, kind, shortened));
    } catch (RefusedException error) {
      forget(assignment);
      progress.said("refused", error.getMessage());
      return assignment.retryAfterRejectedS;
    }
  }

  private double answered(String event, Assignment assignment, Answers.Reported answer) {
    forget(assignment);
    progress.said(event, "round " + assignment.roundIndex + ": " + answer.status + ", " + answer.reason);
    return answer.status.equals("rejected") ? assignment.retryAfterRejectedS : assignment.retryAfterAcceptedS;
  }

  /** Nothing of the assignment is needed any more; the next round brings another adapter. */
  private void forget(Assignment assignment) {
    state.forgetAllBut(null);
    family.cache.remove(assignment.adapter.sha256);
  }

  private void sleep(double seconds) {
    stop.sleep(seconds * (1 + LATEST_EXTRA * random.nextDouble()));
  }
}
