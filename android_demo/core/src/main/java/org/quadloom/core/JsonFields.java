package org.quadloom.core;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The fields of one JSON object, read by name and kind. What a reader did not ask for is found by {@link #end}: a field
 * that is not known may change what the known ones mean.
 */
final class JsonFields {
  private final Map<?, ?> fields;
  private final String where;
  private final Set<String> read = new HashSet<>();

  private JsonFields(Object value, String where) throws JsonException {
    if (!(value instanceof Map)) {
      throw new JsonException(where + " is no object");
    }
    this.fields = (Map<?, ?>) value;
    this.where = where;
  }

  /** @param where names the object in errors */
  static JsonFields of(Object value, String where) throws JsonException {
    return new JsonFields(value, where);
  }

  /** Check that every field was read. */
  void end() throws JsonException {
    for (Object name : fields.keySet()) {
      if (!read.contains(name)) {
        throw new JsonException(where + " has the unknown field " + shown(name));
      }
    }
  }

  /** The names of all fields. */
  List<String> names() {
    List<String> names = new ArrayList<>();
    for (Object name : fields.keySet()) {
      names.add((String) name);
    }
    return names;
  }

  boolean has(String name) {
    return fields.get(name) != null;
  }

  /** The value of a field of any kind, null also where there is none. */
  Object any(String name) {
    read.add(name);
    return fields.get(name);
  }

  String string(String name) throws JsonException {
    Object found = any(name);
    if (!(found instanceof String)) {
      throw wrong(name, "a string");
    }
    return (String) found;
  }

  String stringOrNull(String name) throws JsonException {
    return any(name) == null ? null : string(name);
  }

  boolean bool(String name, boolean byDefault) throws JsonException {
    Object found = any(name);
    if (found == null) {
      return byDefault;
    }
    if (!(found instanceof Boolean)) {
      throw wrong(name, "true or false");
    }
    return (Boolean) found;
  }

  /** A whole number within bounds, both included. */
  long whole(String name, long least, long most) throws JsonException {
    Object found = any(name);
    if (!(found instanceof Long) || (Long) found < least || (Long) found > most) {
      throw wrong(name, "a whole number from " + least + " to " + most);
    }
    return (Long) found;
  }

  int integer(String name, int least, int most) throws JsonException {
    return (int) whole(name, least, most);
  }

  int integer(String name, int least, int most, int byDefault) throws JsonException {
    return any(name) == null ? byDefault : integer(name, least, most);
  }

  /** A number within bounds, both included. */
  double number(String name, double least, double most) throws JsonException {
    Object found = any(name);
    double number = found instanceof Number ? ((Number) found).doubleValue() : Double.NaN;
    if (!(number >= least && number <= most)) {
      throw wrong(name, "a number from " + least + " to " + most);
    }
    return number;
  }

  double number(String name, double least, double most, double byDefault) throws JsonException {
    return any(name) == null ? byDefault : number(name, least, most);
  }

  JsonFields object(String name) throws JsonException {
    return of(any(name), where + "." + name);
  }

  /** An array of objects. */
  List<JsonFields> objects(String name) throws JsonException {
    List<JsonFields> found = new ArrayList<>();
    for (Object each : array(name)) {
      found.add(of(each, where + "." + name + "[" + found.size() + "]"));
    }
    return found;
  }

  /** An array of whole numbers within bounds, both included. */
  long[] wholes(String name, long least, long most) throws JsonException {
    List<?> elements = array(name);
    long[] found = new long[elements.size()];
    for (int i = 0; i < found.length; i++) {
      Object each = elements.get(i);
      if (!(each instanceof Long) || (Long) each < least || (Long) each > most) {
        throw wrong(name, "an array of whole numbers from " + least + " to " + most);
      }
      found[i] = (Long) each;
    }
    return found;
  }

  List<?> array(String name) throws JsonException {
    Object found = any(name);
    if (!(found instanceof List)) {
      throw wrong(name, "an array");
    }
    return (List<?>) found;
  }

  JsonException wrong(String name, String wanted) {
    return new JsonException(where + "." + name + " is " + shown(fields.get(name)) + ", not " + wanted);
  }

  private static String shown(Object value) {
    String text = String.valueOf(value);
    return text.substring(0, Math.min(text.length(), 80));
  }
}
