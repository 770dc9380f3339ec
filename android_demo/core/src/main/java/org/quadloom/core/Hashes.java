package org.quadloom.core;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** Hashes of bytes and files. */
final class Hashes {
  private static final int CHUNK_BYTES = 1 << 16;

  private Hashes() {}

  /** A digest that every Java platform has. */
  static MessageDigest digest(String algorithm) {
    try {
      return MessageDigest.getInstance(algorithm);
    } catch (NoSuchAlgorithmException error) {
      throw new AssertionError(error);
    }
  }

  static byte[] sha256(byte[] content) {
    return digest("SHA-256").digest(content);
  }

  /** SHA-256 of a file's content, hex. */
  static String sha256(File file) throws IOException {
    MessageDigest digest = digest("SHA-256");
    byte[] chunk = new byte[CHUNK_BYTES];
    try (InputStream in = new FileInputStream(file)) {
      for (int size = in.read(chunk); size >= 0; size = in.read(chunk)) {
        digest.update(chunk, 0, size);
      }
    }
    return hex(digest.digest());
  }

  static String hex(byte[] content) {
    StringBuilder text = new StringBuilder();
    for (byte each : content) {
      text.append(Character.forDigit((each >> 4) & 15, 16)).append(Character.forDigit(each & 15, 16));
    }
    return text.toString();
  }
}
