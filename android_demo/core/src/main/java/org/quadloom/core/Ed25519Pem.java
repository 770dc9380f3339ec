package org.quadloom.core;

import java.util.Arrays;
import java.util.Base64;
import java.util.Locale;

/** Ed25519 keys as PEM, as OpenSSL and {@code quadloom keys} write them (RFC 8410). */
final class Ed25519Pem {
  /** What stands before the 32 bytes of a key in its DER encoding. */
  private static final byte[] PRIVATE_PREFIX = {48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32};

  private static final byte[] PUBLIC_PREFIX = {48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0};

  private Ed25519Pem() {}

  static String privateKey(byte[] seed) {
    byte[] der = Arrays.copyOf(PRIVATE_PREFIX, PRIVATE_PREFIX.length + seed.length);
    System.arraycopy(seed, 0, der, PRIVATE_PREFIX.length, seed.length);
    String body = Base64.getEncoder().encodeToString(der);
    return "-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n";
  }

  /** The seed of a private key; {@code source} names it in errors. */
  static byte[] parsePrivateKey(String pem, String source) throws QuadloomException {
    return parse(pem, "PRIVATE KEY", PRIVATE_PREFIX, source);
  }

  /** The 32 bytes of a public key; {@code source} names it in errors. */
  static byte[] parsePublicKey(String pem, String source) throws QuadloomException {
    return parse(pem, "PUBLIC KEY", PUBLIC_PREFIX, source);
  }

  private static byte[] parse(String pem, String kind, byte[] prefix, String source) throws QuadloomException {
    String begin = "-----BEGIN " + kind + "-----";
    String end = "-----END " + kind + "-----";
    String text = pem.trim();
    if (text.startsWith(begin) && text.endsWith(end) && text.length() >= begin.length() + end.length()) {
      try {
        String body = text.substring(begin.length(), text.length() - end.length()).replaceAll("\\s", "");
        byte[] der = Base64.getDecoder().decode(body);
        if (der.length == prefix.length + Ed25519.KEY_BYTES
            && Arrays.equals(Arrays.copyOf(der, prefix.length), prefix)) {
          return Arrays.copyOfRange(der, prefix.length, der.length);
        }
      } catch (IllegalArgumentException error) {
        // Not base64: no key either.
      }
    }
    throw new QuadloomException(
        source + " holds no unencrypted Ed25519 " + kind.toLowerCase(Locale.ROOT) + " in PEM",
        "make a pair of keys with `quadloom keys FILE`");
  }
}
