package org.quadloom.core;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** Reads untrusted references: to files, and the server's ids. */
final class BlobReferences {
  /** Relative, forward slashes, no step that begins with a dot, so none out of the folder. */
  private static final Pattern PATH =
      Pattern.compile("[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*");

  private static final Pattern SHA256 = Pattern.compile("[0-9a-f]{64}");
  /** An id becomes a part of addresses and of signed fields. */
  private static final Pattern ID = Pattern.compile("[A-Za-z0-9-]{1,64}");

  private static final int LONGEST_PATH = 200;
  private static final long LARGEST_BYTES = 1L << 53;

  private BlobReferences() {}

  static BlobReference read(JsonFields fields) throws JsonException {
    String path = fields.string("path");
    if (path.length() > LONGEST_PATH || !PATH.matcher(path).matches()) {
      throw fields.wrong("path", "a path inside the family's folder");
    }
    BlobReference found = new BlobReference(path, sha256(fields, "sha256"), fields.whole("size_bytes", 0, LARGEST_BYTES));
    fields.string("media_type");
    fields.end();
    return found;
  }

  static List<BlobReference> readAll(List<JsonFields> elements) throws JsonException {
    List<BlobReference> found = new ArrayList<>();
    for (JsonFields each : elements) {
      found.add(read(each));
    }
    return found;
  }

  /** A name that the server gave to a device or an assignment. */
  static String id(JsonFields fields, String name) throws JsonException {
    String found = fields.string(name);
    if (!ID.matcher(found).matches()) {
      throw fields.wrong(name, "letters, digits and dashes");
    }
    return found;
  }

  static String sha256(JsonFields fields, String name) throws JsonException {
    String found = fields.string(name);
    if (!SHA256.matcher(found).matches()) {
      throw fields.wrong(name, "64 hexadecimal digits");
    }
    return found;
  }
}
