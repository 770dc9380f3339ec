package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.security.SecureRandom;

/**
 * Who a device is: an Ed25519 key that it makes once and that never leaves its folder. The folder must be private to the
 * app, as Android's are; the file is made readable by its owner only.
 */
final class DeviceKey {
  private static final String NAME = "device.key";

  private DeviceKey() {}

  /** The secret seed of the device that lives in this folder, made at its first start. */
  static byte[] seed(File folder) throws QuadloomException {
    File file = new File(folder, NAME);
    if (!file.exists()) {
      byte[] seed = new byte[Ed25519.KEY_BYTES];
      new SecureRandom().nextBytes(seed);
      DurableFiles.writePrivate(file, Ed25519Pem.privateKey(seed).getBytes(StandardCharsets.US_ASCII));
    }
    try {
      String pem = new String(Files.readAllBytes(file.toPath()), StandardCharsets.US_ASCII);
      return Ed25519Pem.parsePrivateKey(pem, file.toString());
    } catch (IOException error) {
      throw new QuadloomException(
          "the key file " + file + " cannot be read: " + error.getMessage(), "let the app own its folder");
    }
  }
}
