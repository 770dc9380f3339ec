package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;

/**
 * Which files an untrusted ONNX graph would make its engine open: only the weights beside it may be among them.
 *
 * <p>A tensor of a graph may lie in another file, named by a path and an offset that the engine follows, or in the memory
 * of the process. The graph is looked through here, before any engine sees it, by walking the protobuf encoding, as
 * {@code quadloom_runtime.engines.onnx_files} does: nothing recurses, and whatever is not plain protobuf is refused.
 */
final class OnnxGraphFile {
  private static final long LARGEST_BYTES = 256 << 20;
  private static final int TENSOR_EXTERNAL_DATA = 13;
  private static final int TENSOR_DATA_LOCATION = 14;
  private static final int ENTRY_KEY = 1;
  private static final int ENTRY_VALUE = 2;

  /** Messages of onnx.proto through which tensors are reached. */
  private enum Kind {
    MODEL,
    GRAPH,
    NODE,
    ATTRIBUTE,
    TENSOR,
    SPARSE,
    FUNCTION,
    TRAINING;

    /** What a field of this message holds, by number; null for one that is skipped. */
    Kind inside(int field) {
      switch (this) {
        case MODEL:
          return field == 7 ? GRAPH : field == 20 ? TRAINING : field == 25 ? FUNCTION : null;
        case GRAPH:
          return field == 1 ? NODE : field == 5 ? TENSOR : field == 15 ? SPARSE : null;
        case NODE:
          return field == 5 ? ATTRIBUTE : null;
        case ATTRIBUTE:
          return field == 5 || field == 10
              ? TENSOR
              : field == 6 || field == 11 ? GRAPH : field == 22 || field == 23 ? SPARSE : null;
        case SPARSE:
          return field == 1 || field == 2 ? TENSOR : null;
        case FUNCTION:
          return field == 7 ? NODE : field == 11 ? ATTRIBUTE : null;
        case TRAINING:
          return field == 1 || field == 2 ? GRAPH : null;
        default:
          return null;
      }
    }
  }

  /** A message that is still to be looked through. */
  private static final class Part {
    private final Kind kind;
    private final ProtobufFields fields;

    private Part(Kind kind, ProtobufFields fields) {
      this.kind = kind;
      this.fields = fields;
    }
  }

  private OnnxGraphFile() {}

  /**
   * Check that every external tensor of a graph lies within the weights file, which lies beside the graph.
   *
   * @throws QuadloomException one does not, or the file is no ONNX graph
   */
  static void check(File graph, File weights) throws QuadloomException {
    try {
      if (graph.length() > LARGEST_BYTES) {
        throw new JsonException("it has more than " + LARGEST_BYTES + " bytes");
      }
      if (!graph.getAbsoluteFile().getParentFile().equals(weights.getAbsoluteFile().getParentFile())) {
        throw new JsonException("its weights " + weights + " do not lie beside it");
      }
      checkTensors(Files.readAllBytes(graph.toPath()), weights.getName(), weights.length());
    } catch (IOException error) {
      throw DurableFiles.failed(graph, error);
    } catch (JsonException error) {
      throw new QuadloomException(
          "the graph " + graph + " is not safe to open: " + error.getMessage(),
          "do not use this family before whoever made it can say why");
    }
  }

  private static void checkTensors(byte[] content, String weightsName, long weightsBytes) throws JsonException {
    ArrayDeque<Part> waiting = new ArrayDeque<>();
    waiting.add(new Part(Kind.MODEL, new ProtobufFields(content, 0, content.length)));
    while (!waiting.isEmpty()) {
      Part part = waiting.removeLast();
      if (part.kind == Kind.TENSOR) {
        checkTensor(part.fields, weightsName, weightsBytes);
        continue;
      }
      while (part.fields.next()) {
        Kind inside = part.kind.inside(part.fields.number());
        if (inside != null) {
          waiting.add(new Part(inside, part.fields.message()));
        }
      }
    }
  }

  private static void checkTensor(ProtobufFields tensor, String weightsName, long weightsBytes) throws JsonException {
    Map<String, String> entries = new HashMap<>();
    boolean isExternal = false;
    while (tensor.next()) {
      if (tensor.number() == TENSOR_DATA_LOCATION) {
        // Whatever is sent in a way that some reader might not skip counts.
        isExternal |= !tensor.isNumber() || tensor.hasBits();
      } else if (tensor.number() == TENSOR_EXTERNAL_DATA) {
        isExternal = true;
        readEntry(tensor.message(), entries);
      }
    }
    if (isExternal) {
      checkEntries(entries, weightsName, weightsBytes);
    }
  }

  private static void readEntry(ProtobufFields entry, Map<String, String> entries) throws JsonException {
    String key = null;
    String value = null;
    while (entry.next()) {
      boolean isKey = entry.number() == ENTRY_KEY && key == null;
      boolean isValue = entry.number() == ENTRY_VALUE && value == null;
      if (entry.isBytes() && !isKey && !isValue) {
        throw new JsonException("an entry of external_data is not one key and one value");
      }
      if (entry.isBytes() && isKey) {
        key = entry.text();
      } else if (entry.isBytes()) {
        value = entry.text();
      }
    }
    if (key == null || value == null || entries.put(key, value) != null) {
      throw new JsonException("an entry of external_data is not one key and one value");
    }
  }

  private static void checkEntries(Map<String, String> entries, String weightsName, long weightsBytes)
      throws JsonException {
    if (!entries.keySet().equals(new HashSet<>(Arrays.asList("location", "offset", "length")))) {
      throw new JsonException("a tensor outside it is described by " + entries.keySet());
    }
    if (!entries.get("location").equals(weightsName)) {
      throw new JsonException("a tensor lies in '" + entries.get("location") + "', not in " + weightsName);
    }
    long end = 0;
    for (String name : new String[] {"offset", "length"}) {
      if (!entries.get(name).matches("[0-9]{1,17}")) {
        throw new JsonException("the " + name + " of a tensor is '" + entries.get(name) + "'");
      }
      end += Long.parseLong(entries.get(name));
    }
    if (end > weightsBytes) {
      throw new JsonException("a tensor ends at byte " + end + " of " + weightsName + ", which has " + weightsBytes);
    }
  }
}
