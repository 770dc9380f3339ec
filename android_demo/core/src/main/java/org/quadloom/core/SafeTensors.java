package org.quadloom.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Float32 tensors and texts in the safetensors format. */
final class SafeTensors {
  private static final int LENGTH_BYTES = 8;
  private static final int ALIGNMENT_BYTES = 8;
  private static final int LARGEST_HEADER_BYTES = 32 << 20;
  private static final int DEEPEST_HEADER = 4;
  private static final long LARGEST_EXTENT = 1L << 32;
  private static final String METADATA = "__metadata__";

  final Map<String, FloatTensor> tensors;
  final Map<String, String> metadata;

  SafeTensors(Map<String, FloatTensor> tensors, Map<String, String> metadata) {
    this.tensors = tensors;
    this.metadata = metadata;
  }

  /** The bytes of a file, tensors by name. */
  byte[] write() {
    Map<String, Object> header = new LinkedHashMap<>();
    if (!metadata.isEmpty()) {
      header.put(METADATA, metadata);
    }
    long dataBytes = 0;
    TreeMap<String, FloatTensor> sorted = new TreeMap<>(tensors);
    for (Map.Entry<String, FloatTensor> entry : sorted.entrySet()) {
      long end = dataBytes + 4L * entry.getValue().values().length;
      header.put(entry.getKey(), description(entry.getValue().shape(), dataBytes, end));
      dataBytes = end;
    }
    byte[] text = Json.write(header).getBytes(StandardCharsets.UTF_8);
    int headerBytes = (text.length + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    byte[] content = new byte[Math.toIntExact(LENGTH_BYTES + headerBytes + dataBytes)];
    Arrays.fill(content, LENGTH_BYTES, LENGTH_BYTES + headerBytes, (byte) ' ');
    ByteBuffer buffer = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
    buffer.putLong(headerBytes).put(text);
    int place = LENGTH_BYTES + headerBytes;
    for (FloatTensor tensor : sorted.values()) {
      buffer.position(place);
      buffer.asFloatBuffer().put(tensor.values());
      place += 4 * tensor.values().length;
    }
    return content;
  }

  /**
   * Read untrusted bytes: tensors must be float32 and fill the file without a gap.
   *
   * @param source names the file in errors
   */
  static SafeTensors read(byte[] content, String source) throws QuadloomException {
    try {
      return parsed(content);
    } catch (JsonException | ArithmeticException error) {
      throw new QuadloomException(
          source + " is no safetensors file of float32 tensors: " + error.getMessage(), "fetch it again");
    }
  }

  private static SafeTensors parsed(byte[] content) throws JsonException {
    ByteBuffer buffer = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN);
    long headerBytes = content.length < LENGTH_BYTES ? -1 : buffer.getLong();
    if (headerBytes < 0 || headerBytes > Math.min(LARGEST_HEADER_BYTES, content.length - LENGTH_BYTES)) {
      throw new JsonException("its header is not in its " + content.length + " bytes");
    }
    int dataStart = LENGTH_BYTES + (int) headerBytes;
    byte[] header = Arrays.copyOfRange(content, LENGTH_BYTES, dataStart);
    JsonFields fields = JsonFields.of(Json.parse(header, DEEPEST_HEADER), "header");
    Map<String, FloatTensor> tensors = new LinkedHashMap<>();
    List<long[]> places = new ArrayList<>();
    for (String name : fields.names()) {
      if (!name.equals(METADATA)) {
        long[] place = new long[2];
        long[] shape = shape(fields.object(name), content.length - dataStart, place);
        float[] values = new float[(int) ((place[1] - place[0]) / 4)];
        buffer.position(dataStart + (int) place[0]);
        buffer.asFloatBuffer().get(values);
        tensors.put(name, new FloatTensor(shape, values));
        places.add(place);
      }
    }
    checkWhole(places, content.length - dataStart);
    return new SafeTensors(tensors, texts(fields));
  }

  /** The shape that a tensor states; its begin and end go into {@code place}. */
  private static long[] shape(JsonFields fields, long dataBytes, long[] place) throws JsonException {
    if (!fields.string("dtype").equals("F32")) {
      throw fields.wrong("dtype", "F32");
    }
    long[] shape = fields.wholes("shape", 0, LARGEST_EXTENT);
    long[] offsets = fields.wholes("data_offsets", 0, dataBytes);
    fields.end();
    long bytes = 4;
    for (long extent : shape) {
      bytes = Math.multiplyExact(bytes, extent);
    }
    if (offsets.length != 2 || offsets[1] - offsets[0] != bytes) {
      throw fields.wrong("data_offsets", "a begin and an end " + bytes + " bytes later");
    }
    place[0] = offsets[0];
    place[1] = offsets[1];
    return shape;
  }

  private static void checkWhole(List<long[]> places, long dataBytes) throws JsonException {
    TreeMap<Long, Long> endOf = new TreeMap<>();
    for (long[] place : places) {
      if (place[1] > place[0] && endOf.put(place[0], place[1]) != null) {
        throw new JsonException("two tensors begin at the same byte");
      }
    }
    long reached = 0;
    for (Map.Entry<Long, Long> each : endOf.entrySet()) {
      if (each.getKey() != reached) {
        throw new JsonException("there is a gap or an overlap at byte " + reached + " of its data");
      }
      reached = each.getValue();
    }
    if (reached != dataBytes) {
      throw new JsonException("its tensors fill " + reached + " of " + dataBytes + " bytes");
    }
  }

  private static Map<String, String> texts(JsonFields fields) throws JsonException {
    Map<String, String> found = new LinkedHashMap<>();
    if (fields.has(METADATA)) {
      JsonFields metadata = fields.object(METADATA);
      for (String name : metadata.names()) {
        found.put(name, metadata.string(name));
      }
    }
    return found;
  }

  private static Map<String, Object> description(long[] shape, long begin, long end) {
    List<Long> extents = new ArrayList<>();
    for (long extent : shape) {
      extents.add(extent);
    }
    Map<String, Object> description = new LinkedHashMap<>();
    description.put("dtype", "F32");
    description.put("shape", extents);
    description.put("data_offsets", Arrays.asList(begin, end));
    return description;
  }
}
