package org.quadloom.core;

/** The server's answers to a device, read from untrusted bytes. */
final class Answers {
  private static final int DEEPEST = 8;
  private static final double LONGEST_RETRY_AFTER_S = 7 * 86_400;

  private Answers() {}

  /** What enrolling gives. */
  static final class Enrolled {
    final String deviceId;
    final String manifestSha256;
    final String manifestSignature;

    private Enrolled(JsonFields fields) throws JsonException {
      deviceId = BlobReferences.id(fields, "device_id");
      manifestSha256 = BlobReferences.sha256(fields, "manifest_sha256");
      manifestSignature = fields.stringOrNull("manifest_signature");
    }
  }

  /** What checking in gives: work, or when to come back. */
  static final class CheckedIn {
    final boolean isFinished;

    /** Null where there is no work now. */
    final Assignment assignment;

    final double retryAfterS;
    final String reason;

    private CheckedIn(JsonFields fields) throws JsonException {
      isFinished = fields.string("task_state").equals("finished");
      assignment = fields.has("assignment") ? new Assignment(fields.object("assignment")) : null;
      fields.any("assignment");
      retryAfterS = fields.number("retry_after_s", 0, LONGEST_RETRY_AFTER_S);
      reason = fields.string("reason");
    }
  }

  /** What became of a report: accepted, duplicate, late or rejected. */
  static final class Reported {
    final String status;
    final String reason;

    private Reported(JsonFields fields) throws JsonException {
      status = fields.string("status");
      reason = fields.string("reason");
    }
  }

  static Enrolled enrolled(byte[] content) throws QuadloomException {
    try {
      JsonFields fields = message(content);
      Enrolled found = new Enrolled(fields);
      fields.end();
      return found;
    } catch (JsonException error) {
      throw other(error);
    }
  }

  static CheckedIn checkedIn(byte[] content) throws QuadloomException {
    try {
      JsonFields fields = message(content);
      CheckedIn found = new CheckedIn(fields);
      fields.end();
      return found;
    } catch (JsonException error) {
      throw other(error);
    }
  }

  static Reported reported(byte[] content) throws QuadloomException {
    try {
      JsonFields fields = message(content);
      Reported found = new Reported(fields);
      fields.end();
      return found;
    } catch (JsonException error) {
      throw other(error);
    }
  }

  private static JsonFields message(byte[] content) throws JsonException {
    JsonFields fields = JsonFields.of(Json.parse(content, DEEPEST), "answer");
    fields.integer("schema_version", 1, 1);
    return fields;
  }

  private static QuadloomException other(JsonException error) {
    return new QuadloomException(
        "the server's answer is not the one that was asked for: " + error.getMessage(),
        "run the same Quadloom release on server and device");
  }
}
