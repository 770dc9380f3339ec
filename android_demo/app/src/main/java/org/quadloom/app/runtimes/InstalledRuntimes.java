package org.quadloom.app.runtimes;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.quadloom.core.BlobReference;
import org.quadloom.core.FamilyFolder;
import org.quadloom.core.Manifest;
import org.quadloom.core.Member;
import org.quadloom.core.QuadloomException;
import org.quadloom.core.StepRuntime;
import org.quadloom.core.StepRuntimeFactory;

/** The runtimes that this APK was built with, chosen by the format of the member. */
public final class InstalledRuntimes implements StepRuntimeFactory {
  private static final String EXECUTORCH = "executorch";
  private static final String ONNX = "onnx";

  @Override
  public List<String> formats() {
    List<String> formats = new ArrayList<>();
    if (isInstalled("org.pytorch.executorch.Module")) {
      formats.add(EXECUTORCH);
    }
    if (isInstalled("ai.onnxruntime.OrtEnvironment")) {
      formats.add(ONNX);
    }
    return formats;
  }

  @Override
  public List<BlobReference> filesFor(Manifest manifest, Member member) throws QuadloomException {
    if (!member.key.format.equals(EXECUTORCH)) {
      return manifest.graphFiles(member);
    }
    if (manifest.singleFile == null) {
      throw new QuadloomException(
          "the family has no single ExecuTorch program, and Android's loader takes no data file beside a program",
          "export the family with --executorch-single-file");
    }
    return Collections.singletonList(manifest.singleFile);
  }

  @Override
  public StepRuntime open(Manifest manifest, Member member, FamilyFolder files, int threads)
      throws QuadloomException {
    switch (member.key.format) {
      case EXECUTORCH:
        return new ExecutorchStepRuntime(files.path(manifest.singleFile), member, threads);
      case ONNX:
        return new OnnxStepRuntime(files.path(member.graph), member, threads);
      default:
        throw new QuadloomException(
            "this app has no runtime for the format " + member.key.format,
            "export the family in one of: " + formats());
    }
  }

  /** Whether the APK holds a class; it is not initialized, which would load its native library. */
  private static boolean isInstalled(String name) {
    try {
      Class.forName(name, false, InstalledRuntimes.class.getClassLoader());
      return true;
    } catch (ClassNotFoundException absent) {
      return false;
    }
  }
}
