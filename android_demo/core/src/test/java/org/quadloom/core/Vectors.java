package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.util.List;

/** What the Python packages gave for the same input, written by the test that starts these. */
final class Vectors {
  private static final File FOLDER = new File(System.getProperty("quadloom.vectors"));

  private Vectors() {}

  /** The cases of one kind. */
  static List<JsonFields> cases(String name) throws IOException, JsonException {
    return JsonFields.of(Json.parse(bytes(name + ".json"), 16), name).objects("cases");
  }

  static byte[] bytes(String name) throws IOException {
    return Files.readAllBytes(file(name).toPath());
  }

  /** A file beside the cases. */
  static File file(String name) {
    return new File(FOLDER, name);
  }

  static int[] integers(JsonFields fields, String name) throws JsonException {
    long[] found = fields.wholes(name, Integer.MIN_VALUE, Integer.MAX_VALUE);
    int[] numbers = new int[found.length];
    for (int i = 0; i < numbers.length; i++) {
      numbers[i] = (int) found[i];
    }
    return numbers;
  }

  static float[] floats(JsonFields fields, String name) throws JsonException {
    List<?> found = fields.array(name);
    float[] numbers = new float[found.size()];
    for (int i = 0; i < numbers.length; i++) {
      numbers[i] = ((Number) found.get(i)).floatValue();
    }
    return numbers;
  }
}
