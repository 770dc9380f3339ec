package org.quadloom.core;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A training graph that a process runs: asked and answered with safetensors, each after its length. */
final class ProcessRuntime implements StepRuntime {
  private final Process process;
  private final DataOutputStream requests;
  private final DataInputStream answers;

  ProcessRuntime(List<String> command) throws IOException {
    process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    requests = new DataOutputStream(process.getOutputStream());
    answers = new DataInputStream(process.getInputStream());
  }

  /** Opens ONNX members with a command, to which files and member are added. */
  static final class Factory implements StepRuntimeFactory {
    private final List<String> command;
    private Error firstError;

    /** @param firstError what the platform throws when a member is asked for the first time; null for nothing */
    Factory(List<String> command, Error firstError) {
      this.command = command;
      this.firstError = firstError;
    }

    @Override
    public List<String> formats() {
      List<String> formats = new ArrayList<>();
      formats.add("onnx");
      return formats;
    }

    @Override
    public List<BlobReference> filesFor(Manifest manifest, Member member) {
      if (firstError != null) {
        Error thrown = firstError;
        firstError = null;
        throw thrown;
      }
      return manifest.graphFiles(member);
    }

    @Override
    public StepRuntime open(Manifest manifest, Member member, FamilyFolder files, int threads)
        throws QuadloomException {
      List<String> words = new ArrayList<>(command);
      words.add(files.path(member.graph).getParentFile().getParent());
      words.add(String.valueOf(member.key.depth));
      words.add(String.valueOf(member.key.quantizedLayers));
      words.add(String.valueOf(member.key.recomputePercent));
      try {
        return new ProcessRuntime(words);
      } catch (IOException error) {
        throw new QuadloomException("the step process does not start: " + error, "check the command");
      }
    }
  }

  @Override
  public StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    Map<String, Object> described = new LinkedHashMap<>();
    described.put("input_ids", numbers(batch.inputIds));
    described.put("attention_mask", numbers(batch.attentionMask));
    described.put("token_type_ids", numbers(batch.tokenTypeIds));
    described.put("labels", numbers(batch.labels));
    Map<String, String> metadata = new HashMap<>();
    metadata.put("batch", Json.write(described));
    byte[] request = new SafeTensors(parameters, metadata).write();
    try {
      requests.writeInt(request.length);
      requests.write(request);
      requests.flush();
      byte[] answer = new byte[answers.readInt()];
      answers.readFully(answer);
      SafeTensors found = SafeTensors.read(answer, "the step process");
      return new StepResult(
          Double.parseDouble(found.metadata.get("loss")),
          Integer.parseInt(found.metadata.get("correct")),
          Integer.parseInt(found.metadata.get("examples")),
          found.tensors);
    } catch (IOException error) {
      throw new QuadloomException("the step process is gone: " + error, "see what it printed");
    }
  }

  @Override
  public void close() {
    process.destroy();
  }

  private static List<Long> numbers(long[] values) {
    List<Long> found = new ArrayList<>();
    for (long each : values) {
      found.add(each);
    }
    return found;
  }
}
