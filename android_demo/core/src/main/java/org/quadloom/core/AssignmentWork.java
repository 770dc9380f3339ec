package org.quadloom.core;

import java.io.File;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** Does assignments: from the download to the finished update. */
final class AssignmentWork {
  private static final String EXECUTORCH = "executorch";

  /** So often may the process die in the training of the same steps before the device asks for less. */
  private static final int MOST_DEATHS = 2;

  private final DeviceSettings settings;
  private final DeviceState state;
  private final FamilyCopy family;
  private final ServerClient client;
  private final StepRuntimeFactory runtimes;
  private final List<Example> examples;
  private final TrainingProgress progress;
  private final StopSignal stop;
  private String encodedBy;
  private EncodedData encoded;

  AssignmentWork(
      DeviceSettings settings,
      DeviceState state,
      FamilyCopy family,
      ServerClient client,
      StepRuntimeFactory runtimes,
      List<Example> examples,
      TrainingProgress progress,
      StopSignal stop) {
    this.settings = settings;
    this.state = state;
    this.family = family;
    this.client = client;
    this.runtimes = runtimes;
    this.examples = examples;
    this.progress = progress;
    this.stop = stop;
  }

  /**
   * The update of an assignment, made and kept.
   *
   * @param lastUpload bytes and seconds of the update before this one, null if there was none
   * @throws StepOutOfMemoryException it does not fit the memory
   * @throws StoppedException somebody wants the device to stop; progress is kept
   */
  byte[] update(Assignment assignment, double[] lastUpload) throws QuadloomException {
    long downBefore = client.traffic.downBytes;
    double downloadBeforeS = client.traffic.downloadS;
    Manifest manifest = family.manifest(assignment.manifestSha256, assignment.manifestSignature);
    Member member = family.member(assignment, manifest);
    List<BlobReference> files = new ArrayList<>(runtimes.filesFor(manifest, member));
    long here = family.sizeHere(assignment, files);
    long hereAtFirst = state.bytesHereAtFirst(assignment.assignmentId, here);
    family.bring(files);
    List<ParameterSpec> table = AdapterRanks.rowsAtRank(manifest.parameters, assignment.rank);
    SafeTensors adapter = family.adapter(assignment, table);
    EncodedData data = encoded(manifest);
    long came = client.traffic.downBytes - downBefore;
    long downloaded = Math.max(family.sizeHere(assignment, files) - hereAtFirst, came);
    Double downloadS = here == hereAtFirst ? Double.valueOf(client.traffic.downloadS - downloadBeforeS) : null;
    progress.said("fetched", "round " + assignment.roundIndex + ": fetched " + downloaded + " bytes");

    Checkpoint checkpoint = state.loadCheckpoint(assignment.assignmentId);
    requireSurvival(assignment, checkpoint);
    try (MeasuredRuntime runtime = open(assignment, manifest, member)) {
      List<ParameterSpec> trained =
          AdapterRanks.rowsAtRank(manifest.trainedParameters(member.key.depth), assignment.rank);
      Trainer trainer = new Trainer(runtime, trained, data, manifest.batchSize, assignment.settings);
      TrainingOutcome outcome = trainer.train(adapter.tensors, checkpoint, afterStep(assignment, runtime.memory));
      byte[] update = UpdateFile.write(outcome, runtime.memory, downloaded, downloadS, lastUpload);
      state.saveUpdate(assignment.assignmentId, update);
      progress.said("trained", trainedLine(assignment, outcome));
      return update;
    } catch (OutOfMemoryError error) {
      throw new StepOutOfMemoryException(member.key.label(), String.valueOf(error.getMessage()));
    } finally {
      state.noteStop(assignment.assignmentId);
    }
  }

  /** A system that is short of memory ends the whole app, so nobody is left to report it but the next start. */
  private void requireSurvival(Assignment assignment, Checkpoint checkpoint) throws QuadloomException {
    int deaths = state.noteStart(assignment.assignmentId, checkpoint.step);
    if (deaths >= MOST_DEATHS) {
      state.noteStop(assignment.assignmentId);
      throw new StepOutOfMemoryException(
          assignment.member.label(),
          "the process died " + deaths + " times after step " + checkpoint.step + " of this training");
    }
  }

  private MeasuredRuntime open(Assignment assignment, Manifest manifest, Member member) throws QuadloomException {
    if (!member.key.format.equals(EXECUTORCH)) {
      checkGraphs(manifest, member);
    }
    StepRuntime runtime = runtimes.open(manifest, member, family.files, settings.threads);
    if (assignment.rank != manifest.loraRank) {
      runtime = new RankRuntime(runtime, manifest.parameters, assignment.rank);
    }
    return new MeasuredRuntime(runtime, member, settings.memoryLimitBytes);
  }

  /** Of every format but ExecuTorch's the graph is ONNX, whatever its name, which the server chose, ends in. */
  private void checkGraphs(Manifest manifest, Member member) throws QuadloomException {
    File weights = family.files.path(manifest.weights(member.key.format));
    OnnxGraphFile.check(family.files.path(member.graph), weights);
    for (BlobReference companion : member.companions) {
      if (companion.path.endsWith(".onnx")) {
        OnnxGraphFile.check(family.files.path(companion), weights);
      }
    }
  }

  private EncodedData encoded(Manifest manifest) throws QuadloomException {
    String tokenizer = FamilyCopy.tokenizer(manifest).sha256;
    if (!tokenizer.equals(encodedBy)) {
      encoded = family.encoder(manifest).encode(examples);
      encodedBy = tokenizer;
    }
    return encoded;
  }

  private Trainer.OnStep afterStep(final Assignment assignment, final StepMemory memory) {
    return new Trainer.OnStep() {
      private long keptAt = System.nanoTime();

      @Override
      public void after(Checkpoint at, int steps) throws QuadloomException {
        double loss = at.losses.get(at.losses.size() - 1);
        progress.stepped(assignment.roundIndex, at.step, steps, loss, memory.peakBytes());
        try {
          stop.check();
        } catch (StoppedException error) {
          state.saveCheckpoint(assignment.assignmentId, at);
          throw error;
        }
        // The last step needs none: the update follows at once.
        if (at.step < steps && (System.nanoTime() - keptAt) / 1e9 >= settings.checkpointEveryS) {
          state.saveCheckpoint(assignment.assignmentId, at);
          state.noteStart(assignment.assignmentId, at.step);
          keptAt = System.nanoTime();
        }
      }
    };
  }

  private static String trainedLine(Assignment assignment, TrainingOutcome outcome) {
    return String.format(
        Locale.ROOT,
        "round %d: %d steps in %.1f s, loss %.4f -> %.4f",
        assignment.roundIndex,
        outcome.steps,
        outcome.trainS,
        outcome.lossFirst,
        outcome.lossLast);
  }
}
