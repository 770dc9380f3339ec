package org.quadloom.core;

import java.nio.charset.StandardCharsets;

/** The fields of an untrusted protobuf message, one after the other; every length is checked before it is believed. */
final class ProtobufFields {
  private static final int VARINT = 0;
  private static final int FIXED64 = 1;
  private static final int BYTES = 2;
  private static final int FIXED32 = 5;
  private static final int LONGEST_VARINT_BYTES = 10;
  private static final long LARGEST_FIELD_NUMBER = (1L << 29) - 1;

  private final byte[] content;
  private final int end;
  private int place;
  private int wire;
  private int number;
  private int valueStart;

  /** The message between two places of {@code content}. */
  ProtobufFields(byte[] content, int start, int end) {
    this.content = content;
    this.place = start;
    this.end = end;
  }

  /** Go to the next field; false where there is none. */
  boolean next() throws JsonException {
    if (place == end) {
      return false;
    }
    long tag = varint();
    if (tag >>> 3 == 0 || tag >>> 3 > LARGEST_FIELD_NUMBER) {
      throw wrong("a field has the number " + (tag >>> 3));
    }
    number = (int) (tag >>> 3);
    wire = (int) (tag & 7);
    valueStart = place;
    long length;
    if (wire == VARINT) {
      varint();
      length = 0;
    } else if (wire == BYTES) {
      length = varint();
      valueStart = place;
    } else if (wire == FIXED32 || wire == FIXED64) {
      length = wire == FIXED32 ? 4 : 8;
    } else {
      throw wrong("a field has the wire type " + wire);
    }
    if (length < 0 || length > end - place) {
      throw wrong("it ends within a field");
    }
    place += (int) length;
    return true;
  }

  /** The number of the field. */
  int number() {
    return number;
  }

  boolean isNumber() {
    return wire == VARINT;
  }

  boolean isBytes() {
    return wire == BYTES;
  }

  /** Whether any bit of the value as it stands is set. */
  boolean hasBits() {
    for (int i = valueStart; i < place; i++) {
      if (content[i] != 0) {
        return true;
      }
    }
    return false;
  }

  /** The message in the field. */
  ProtobufFields message() throws JsonException {
    if (wire != BYTES) {
      throw wrong("field " + number + " is no message");
    }
    return new ProtobufFields(content, valueStart, place);
  }

  /** The text in the field. */
  String text() {
    return new String(content, valueStart, place - valueStart, StandardCharsets.UTF_8);
  }

  private long varint() throws JsonException {
    long found = 0;
    for (int index = 0; index < LONGEST_VARINT_BYTES; index++) {
      if (place >= end) {
        throw wrong("it ends within a number");
      }
      byte each = content[place++];
      found |= (long) (each & 0x7f) << (7 * index);
      if (each >= 0) {
        return found;
      }
    }
    throw wrong("a number does not end");
  }

  private static JsonException wrong(String problem) {
    return new JsonException("it is no ONNX: " + problem);
  }
}
