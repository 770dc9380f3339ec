package org.quadloom.core;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/** Reads a family manifest of schema version 1 from untrusted bytes: what a device needs of it, checked. */
final class ManifestReader {
  static final int LARGEST_BYTES = 32 << 20;
  private static final int DEEPEST = 8;
  private static final int MOST_LAYERS = 10_000;
  private static final int MOST_RANK = 100_000;
  private static final long LARGEST_COUNT = 1L << 53;
  private static final long LARGEST_EXTENT = 1L << 32;

  private final JsonFields root;
  private final int layers;

  private ManifestReader(JsonFields root) throws JsonException {
    this.root = root;
    layers = root.object("model").integer("layers", 1, MOST_LAYERS);
  }

  /** @throws QuadloomException it is no valid manifest, or one of a task that this device cannot do */
  static Manifest read(byte[] content) throws QuadloomException {
    try {
      JsonFields root = JsonFields.of(Json.parse(content, DEEPEST), "manifest");
      root.integer("schema_version", 1, 1);
      requireClassification(root.object("task").string("kind"));
      return new ManifestReader(root).manifest();
    } catch (JsonException error) {
      throw new QuadloomException(
          "the server's manifest is not valid: " + error.getMessage(),
          "export the family again with the Quadloom release of this device");
    }
  }

  private static void requireClassification(String kind) throws QuadloomException {
    if (!kind.equals("sequence-classification")) {
      throw new QuadloomException(
          "the family's task is " + kind + ", and this device trains sequence-classification only",
          "join a task that classifies texts");
    }
  }

  private Manifest manifest() throws JsonException {
    JsonFields batch = root.object("batch");
    Map<String, BlobReference> weights = new HashMap<>();
    for (JsonFields format : root.objects("formats")) {
      weights.put(format.string("format"), BlobReferences.read(format.object("weights")));
    }
    Manifest manifest =
        new Manifest(
            layers,
            root.object("task").integer("num_labels", 2, 1_000_000),
            root.object("lora").integer("rank", 1, MOST_RANK),
            batch.integer("batch_size", 1, 65_536),
            batch.integer("sequence_length", 2, 1_048_576),
            parameters(),
            members(weights),
            BlobReferences.readAll(root.objects("tokenizer")),
            root.has("single_file") ? BlobReferences.read(root.object("single_file")) : null,
            weights);
    checkPaths(manifest);
    return manifest;
  }

  private List<ParameterSpec> parameters() throws JsonException {
    Map<String, ParameterSpec> found = new LinkedHashMap<>();
    for (JsonFields row : root.objects("parameters")) {
      boolean isHead = "head".equals(row.any("layer"));
      int layer = isHead ? ParameterSpec.HEAD : row.integer("layer", 0, layers - 1);
      int rank = row.integer("rank", 1, MOST_RANK, ParameterSpec.NO_RANK);
      String name = row.string("name");
      ParameterSpec parameter = new ParameterSpec(name, row.wholes("shape", 0, LARGEST_EXTENT), layer, rank);
      if (found.put(name, parameter) != null) {
        throw row.wrong("name", "another name than all others");
      }
    }
    return new ArrayList<>(found.values());
  }

  private List<Member> members(Map<String, BlobReference> weights) throws JsonException {
    Map<MemberKey, Member> found = new LinkedHashMap<>();
    for (JsonFields member : root.objects("members")) {
      MemberKey key = key(member.object("key"), layers);
      if (!weights.containsKey(key.format)) {
        throw member.wrong("key", "of a format for which there are weights");
      }
      Member read =
          new Member(
              key,
              BlobReferences.read(member.object("graph")),
              BlobReferences.readAll(member.objects("companions")),
              member.whole("planned_peak_bytes", 0, LARGEST_COUNT),
              tensors(member.objects("inputs")),
              tensors(member.objects("outputs")));
      if (found.put(key, read) != null) {
        throw member.wrong("key", "another key than all others");
      }
    }
    return new ArrayList<>(found.values());
  }

  /** The key of a member of a model with this many layers. */
  static MemberKey key(JsonFields fields, int layers) throws JsonException {
    int depth = fields.integer("depth", 0, layers);
    int quantized = fields.integer("quantized_layers", 0, depth);
    MemberKey key =
        new MemberKey(depth, quantized, fields.integer("recompute_percent", 0, 100, 0), fields.string("format"));
    fields.end();
    return key;
  }

  private static List<TensorSpec> tensors(List<JsonFields> elements) throws JsonException {
    List<TensorSpec> found = new ArrayList<>();
    for (JsonFields each : elements) {
      List<?> extents = each.array("shape");
      long[] shape = new long[extents.size()];
      for (int i = 0; i < shape.length; i++) {
        Object extent = extents.get(i);
        if (extent != null && !(extent instanceof Long)) {
          throw each.wrong("shape", "an array of whole numbers");
        }
        shape[i] = extent == null ? TensorSpec.OPEN : (Long) extent;
      }
      found.add(new TensorSpec(each.string("name"), each.string("dtype"), shape));
    }
    return found;
  }

  /** Different files must not overwrite each other, also where the case of letters does not count. */
  private void checkPaths(Manifest manifest) throws JsonException {
    Set<BlobReference> blobs = new HashSet<>(manifest.tokenizer);
    if (manifest.singleFile != null) {
      blobs.add(manifest.singleFile);
    }
    for (Member member : manifest.members) {
      blobs.addAll(manifest.graphFiles(member));
    }
    Set<String> paths = new HashSet<>();
    for (BlobReference blob : blobs) {
      if (!paths.add(blob.path.toLowerCase(Locale.ROOT))) {
        throw new JsonException("two different files have the path " + blob.path);
      }
    }
  }
}
