package org.quadloom.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** An update as it travels: the changes of the trained tensors, and the report as JSON in the metadata. */
final class UpdateFile {
  private static final double LARGEST_GRADIENT_NORM = 1e6;

  private UpdateFile() {}

  /**
   * @param downloadS seconds of the downloads, null if nobody timed all of them
   * @param lastUpload bytes and seconds of the update before this one, null if there was none
   */
  static byte[] write(
      TrainingOutcome outcome, StepMemory memory, long downloadedBytes, Double downloadS, double[] lastUpload) {
    // Clipped steps are harmless however large the gradient was, and no more than this is taken.
    List<Double> norms = new ArrayList<>();
    for (double norm : outcome.gradientNorms) {
      norms.add(Math.min(norm, LARGEST_GRADIENT_NORM));
    }
    Map<String, Object> report = new LinkedHashMap<>();
    report.put("schema_version", 1);
    report.put("examples", outcome.examples);
    report.put("steps", outcome.steps);
    report.put("loss_first", outcome.lossFirst);
    report.put("loss_last", outcome.lossLast);
    report.put("train_s", outcome.trainS);
    report.put("baseline_bytes", memory.baselineBytes);
    report.put("peak_step_bytes", memory.peakBytes());
    report.put("downloaded_bytes", downloadedBytes);
    report.put("download_s", downloadS);
    report.put("last_upload_bytes", lastUpload == null ? null : (Object) (long) lastUpload[0]);
    report.put("last_upload_s", lastUpload == null ? null : (Object) lastUpload[1]);
    report.put("gradient_norms", norms);
    Map<String, String> metadata = Collections.singletonMap("report", Json.write(report));
    return new SafeTensors(outcome.update, metadata).write();
  }
}
