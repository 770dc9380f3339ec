package org.quadloom.core;

import java.io.BufferedReader;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Collections;
import java.util.Map;
import org.quadloom.app.runtimes.InstalledRuntimes;

/**
 * Runs every ExecuTorch member of a family on one batch after the other, as the app does: {@code FAMILY PARAMETERS BATCHES
 * OUT}. A batch is four lines of numbers: ids, attention mask, token types, labels. Gradients go to {@code OUT/MEMBER-BATCH},
 * a line per step to the standard output.
 */
public final class StepsOnDesktop {
  public static void main(String[] arguments) throws Exception {
    File family = new File(arguments[0]);
    Manifest manifest = ManifestReader.read(Files.readAllBytes(new File(family, "family.json").toPath()));
    Map<String, FloatTensor> parameters =
        SafeTensors.read(Files.readAllBytes(new File(arguments[1]).toPath()), arguments[1]).tensors;
    InstalledRuntimes runtimes = new InstalledRuntimes();
    System.out.println("formats " + runtimes.formats());
    for (Member member : manifest.members) {
      if (!member.key.format.equals("executorch")) {
        continue;
      }
      try (StepRuntime runtime = runtimes.open(manifest, member, new FamilyFolder(family), 1);
          BufferedReader batches =
              Files.newBufferedReader(new File(arguments[2]).toPath(), StandardCharsets.UTF_8)) {
        for (int number = 0; ; number++) {
          Batch batch = next(batches, manifest);
          if (batch == null) {
            break;
          }
          StepResult result = runtime.step(parameters, batch);
          System.out.println(
              member.key.stem() + " " + number + " " + result.loss + " " + result.correct + " " + result.examples);
          File gradients = new File(arguments[3], member.key.stem() + "-" + number);
          Files.write(gradients.toPath(), new SafeTensors(result.gradients, Collections.<String, String>emptyMap()).write());
        }
      }
    }
  }

  private static Batch next(BufferedReader lines, Manifest manifest) throws Exception {
    long[] ids = numbers(lines.readLine());
    return ids == null
        ? null
        : new Batch(
            manifest.batchSize,
            manifest.sequenceLength,
            ids,
            numbers(lines.readLine()),
            numbers(lines.readLine()),
            numbers(lines.readLine()));
  }

  private static long[] numbers(String line) {
    if (line == null) {
      return null;
    }
    String[] words = line.split(" ");
    long[] found = new long[words.length];
    for (int index = 0; index < words.length; index++) {
      found[index] = Long.parseLong(words[index]);
    }
    return found;
  }
}
