package org.quadloom.core;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Untrusted JSON, read only if every reader would read the same: UTF-8, bounded depth, no key twice, finite numbers.
 *
 * <p>Values are Map, List, String, Long, Double, Boolean and null; a whole number that fits is a Long.
 */
final class Json {
  private final String text;
  private final int deepest;
  private int place;
  private int depth;

  private Json(String text, int deepest) {
    this.text = text;
    this.deepest = deepest;
  }

  /**
   * The value that {@code content} holds.
   *
   * @param deepest how deep arrays and objects may nest; {@code []} has depth 1
   * @throws JsonException it is too deep, ambiguous or no JSON
   */
  static Object parse(byte[] content, int deepest) throws JsonException {
    Json json = new Json(decoded(content), deepest);
    Object value = json.value();
    json.skipSpace();
    if (json.place < json.text.length()) {
      throw json.wrong("more follows");
    }
    return value;
  }

  /** The text of a value; a number must be finite. */
  static String write(Object value) {
    StringBuilder out = new StringBuilder();
    JsonWriter.write(value, out);
    return out.toString();
  }

  private static String decoded(byte[] content) throws JsonException {
    try {
      CharBuffer found = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(content));
      return found.toString();
    } catch (CharacterCodingException error) {
      throw new JsonException("it is not UTF-8");
    }
  }

  private Object value() throws JsonException {
    skipSpace();
    char first = peek();
    if (first == '{') {
      return object();
    }
    if (first == '[') {
      return array();
    }
    if (first == '"') {
      return string();
    }
    if (first == '-' || isDigit(first)) {
      return number();
    }
    return word();
  }

  private Map<String, Object> object() throws JsonException {
    Map<String, Object> found = new LinkedHashMap<>();
    open();
    skipSpace();
    if (peek() == '}') {
      close();
      return found;
    }
    while (true) {
      skipSpace();
      String name = string();
      skipSpace();
      expect(':');
      if (found.containsKey(name)) {
        throw wrong("it names \"" + shortened(name) + "\" twice");
      }
      found.put(name, value());
      skipSpace();
      if (peek() == '}') {
        close();
        return found;
      }
      expect(',');
    }
  }

  private List<Object> array() throws JsonException {
    List<Object> found = new ArrayList<>();
    open();
    skipSpace();
    if (peek() == ']') {
      close();
      return found;
    }
    while (true) {
      found.add(value());
      skipSpace();
      if (peek() == ']') {
        close();
        return found;
      }
      expect(',');
    }
  }

  private String string() throws JsonException {
    expect('"');
    StringBuilder found = new StringBuilder();
    while (true) {
      char next = take();
      if (next == '"') {
        break;
      }
      if (next < ' ') {
        throw wrong("a control character stands in a string");
      }
      found.append(next == '\\' ? escaped() : next);
    }
    for (int i = 0; i < found.length(); i++) {
      if (Character.isHighSurrogate(found.charAt(i))
          && i + 1 < found.length()
          && Character.isLowSurrogate(found.charAt(i + 1))) {
        i++;
      } else if (Character.isSurrogate(found.charAt(i))) {
        throw wrong("half a character stands in a string");
      }
    }
    return found.toString();
  }

  private char escaped() throws JsonException {
    char kind = take();
    int known = "\"\\/bfnrt".indexOf(kind);
    if (known >= 0) {
      return "\"\\/\b\f\n\r\t".charAt(known);
    }
    if (kind != 'u') {
      throw wrong("\\" + kind + " is no escape");
    }
    int code = 0;
    for (int i = 0; i < 4; i++) {
      char letter = take();
      int digit = letter < 128 ? Character.digit(letter, 16) : -1;
      if (digit < 0) {
        throw wrong("\\u needs four hexadecimal digits");
      }
      code = 16 * code + digit;
    }
    return (char) code;
  }

  private Number number() throws JsonException {
    int start = place;
    boolean isWhole = true;
    if (peek() == '-') {
      place++;
    }
    if (peek() == '0') {
      place++;
    } else {
      digits();
    }
    if (place < text.length() && text.charAt(place) == '.') {
      isWhole = false;
      place++;
      digits();
    }
    if (place < text.length() && (text.charAt(place) == 'e' || text.charAt(place) == 'E')) {
      isWhole = false;
      place++;
      if (peek() == '+' || peek() == '-') {
        place++;
      }
      digits();
    }
    String written = text.substring(start, place);
    if (isWhole && written.length() <= 18) {
      return Long.valueOf(written);
    }
    double found = Double.parseDouble(written);
    if (Double.isInfinite(found)) {
      throw wrong("it holds " + shortened(written) + ", which is not a finite number");
    }
    return found;
  }

  private void digits() throws JsonException {
    if (!isDigit(peek())) {
      throw wrong("a digit is missing");
    }
    while (place < text.length() && isDigit(text.charAt(place))) {
      place++;
    }
  }

  private Object word() throws JsonException {
    for (String each : new String[] {"true", "false", "null"}) {
      if (text.startsWith(each, place)) {
        place += each.length();
        return each.equals("null") ? null : Boolean.valueOf(each);
      }
    }
    throw wrong("no value begins");
  }

  private void open() throws JsonException {
    place++;
    if (++depth > deepest) {
      throw wrong("it nests deeper than " + deepest + " levels");
    }
  }

  private void close() {
    place++;
    depth--;
  }

  private void expect(char wanted) throws JsonException {
    if (take() != wanted) {
      place--;
      throw wrong("'" + wanted + "' is missing");
    }
  }

  private char peek() throws JsonException {
    if (place >= text.length()) {
      throw wrong("it ends too soon");
    }
    return text.charAt(place);
  }

  private char take() throws JsonException {
    char found = peek();
    place++;
    return found;
  }

  private void skipSpace() {
    while (place < text.length() && " \t\n\r".indexOf(text.charAt(place)) >= 0) {
      place++;
    }
  }

  private JsonException wrong(String problem) {
    return new JsonException("at character " + place + ": " + problem);
  }

  private static boolean isDigit(char letter) {
    return letter >= '0' && letter <= '9';
  }

  private static String shortened(String found) {
    return found.substring(0, Math.min(found.length(), 80));
  }
}
