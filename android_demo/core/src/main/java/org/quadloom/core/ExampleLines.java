package org.quadloom.core;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/**
 * Reads labelled texts: JSONL, one {@code {"text": ..., "label": 0}} a line; other fields are ignored.
 *
 * <p>As other devices take them, a byte-order mark may stand before them, and a label may be 1, 1.0 or "1".
 */
public final class ExampleLines {
  private static final int DEEPEST = 8;
  private static final String BYTE_ORDER_MARK = "\ufeff";
  /** What Python reads as a number, in ASCII digits; Java itself would also take suffixes and hexadecimals. */
  private static final Pattern NUMBER =
      Pattern.compile("\\s*[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?\\s*");

  private ExampleLines() {}

  /**
   * The examples in a file's content.
   *
   * @throws QuadloomException a line is not as it should be, or there is none
   */
  public static List<Example> read(byte[] content) throws QuadloomException {
    List<Example> examples = new ArrayList<>();
    String text = new String(content, StandardCharsets.UTF_8);
    if (text.startsWith(BYTE_ORDER_MARK)) {
      text = text.substring(BYTE_ORDER_MARK.length());
    }
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
      return new Example(fields.string("text"), label(fields));
    } catch (JsonException error) {
      throw new QuadloomException(error.getMessage(), "write one object with text and label per line");
    }
  }

  private static int label(JsonFields fields) throws JsonException {
    Object value = fields.any("label");
    double number = Double.NaN;
    if (value instanceof Number) {
      number = ((Number) value).doubleValue();
    } else if (value instanceof String && NUMBER.matcher((String) value).matches()) {
      number = Double.parseDouble(((String) value).trim());
    }
    if (!(number >= 0 && number <= Integer.MAX_VALUE && number == Math.rint(number))) {
      throw fields.wrong("label", "a class index: 0, 1, 2, ...");
    }
    return (int) number;
  }
}
