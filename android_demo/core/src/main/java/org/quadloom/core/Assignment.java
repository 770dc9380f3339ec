package org.quadloom.core;

import java.util.List;

/** One device's work for one round, read from the server's untrusted answer. */
final class Assignment {
  private static final double LONGEST_RETRY_AFTER_S = 7 * 86_400;
  private static final int MOST_LAYERS = 10_000;

  final String assignmentId;
  final int roundIndex;
  final MemberKey member;
  final int rank;
  final String manifestSha256;

  /** Base64, null where the family is not signed. */
  final String manifestSignature;

  final BlobReference adapter;
  final List<BlobReference> blobs;
  final TrainingSettings settings;
  final double retryAfterAcceptedS;
  final double retryAfterRejectedS;
  final String reason;

  Assignment(JsonFields fields) throws JsonException {
    fields.integer("schema_version", 1, 1);
    assignmentId = BlobReferences.id(fields, "assignment_id");
    fields.string("task_id");
    roundIndex = fields.integer("round_index", 1, Integer.MAX_VALUE);
    member = ManifestReader.key(fields.object("member"), MOST_LAYERS);
    rank = fields.integer("rank", 1, 100_000);
    manifestSha256 = BlobReferences.sha256(fields, "manifest_sha256");
    manifestSignature = fields.stringOrNull("manifest_signature");
    adapter = BlobReferences.read(fields.object("adapter"));
    blobs = BlobReferences.readAll(fields.objects("blobs"));
    settings = new TrainingSettings(fields.object("settings"));
    fields.any("deadline_s");
    fields.any("largest_staleness");
    retryAfterAcceptedS = fields.number("retry_after_accepted_s", 0, LONGEST_RETRY_AFTER_S);
    retryAfterRejectedS = fields.number("retry_after_rejected_s", 0, LONGEST_RETRY_AFTER_S);
    reason = fields.string("reason");
    fields.end();
  }
}
