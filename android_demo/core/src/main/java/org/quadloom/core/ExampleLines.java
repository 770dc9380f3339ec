package org.quadloom.core;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Reads labelled texts: JSONL, one {@code {"text": ..., "label": 0}} a line; other fields are ignored. */
public final class ExampleLines {
  private static final int DEEPEST = 8;

  private ExampleLines() {}

  /**
   * The examples in a file's content.
   *
   * @throws QuadloomException a line is not as it should be, or there is none
   */
  public static List<Example> read(byte[] content) throws QuadloomException {
    List<Example> examples = new ArrayList<>();
    String text = new String(content, StandardCharsets.UTF_8);
    int number = 0;
    for (String line : text.split("\n")) {
      number++;
      if (!line.trim().isEmpty()) {
        examples.add(example(line, "line " + number));
      }
    }
    if (examples.isEmpty()) {
      throw new QuadloomException("there are no examples", "give at least one line of text and label");
    }
    return examples;
  }

  private static Example example(String line, String where) throws QuadloomException {
    try {
      JsonFields fields = JsonFields.of(Json.parse(line.getBytes(StandardCharsets.UTF_8), DEEPEST), where);
      return new Example(fields.string("text"), fields.integer("label", 0, Integer.MAX_VALUE));
    } catch (JsonException error) {
      throw new QuadloomException(error.getMessage(), "write one object with text and label per line");
    }
  }
}
