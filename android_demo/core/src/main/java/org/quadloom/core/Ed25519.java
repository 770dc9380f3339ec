package org.quadloom.core;

import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.Arrays;

/**
 * Ed25519 signatures (RFC 8032, section 5.1), for platforms whose java.security has none: Android before 13, Java 8.
 *
 * <p>Points are in extended coordinates (Hisil et al., ASIACRYPT 2008; RFC 8032, section 5.1.4). Numbers are BigInteger, so
 * the time that signing takes depends on the key: it must not run where somebody who may not know the key can measure it.
 * That suits a device that signs its own requests, each once and over a network.
 */
final class Ed25519 {
  static final int KEY_BYTES = 32;
  static final int SIGNATURE_BYTES = 64;

  private static final BigInteger TWO = BigInteger.valueOf(2);
  private static final BigInteger P = TWO.pow(255).subtract(BigInteger.valueOf(19));
  private static final BigInteger ORDER =
      TWO.pow(252).add(new BigInteger("27742317777372353535851937790883648493"));
  private static final BigInteger D =
      BigInteger.valueOf(-121665).multiply(BigInteger.valueOf(121666).modInverse(P)).mod(P);
  private static final BigInteger ROOT_OF_MINUS_ONE = TWO.modPow(P.subtract(BigInteger.ONE).shiftRight(2), P);
  private static final Point BASE = base();

  private Ed25519() {}

  /** The public key, 32 bytes, of a secret seed of 32 bytes. */
  static byte[] publicKey(byte[] seed) {
    return BASE.times(clamped(sha512(seed))).encoded();
  }

  /** The signature, 64 bytes, of a message. */
  static byte[] sign(byte[] seed, byte[] message) {
    byte[] expanded = sha512(seed);
    BigInteger secret = clamped(expanded);
    byte[] publicKey = BASE.times(secret).encoded();
    BigInteger nonce = number(sha512(Arrays.copyOfRange(expanded, 32, 64), message)).mod(ORDER);
    byte[] commitment = BASE.times(nonce).encoded();
    BigInteger challenge = number(sha512(commitment, publicKey, message)).mod(ORDER);
    BigInteger answer = nonce.add(challenge.multiply(secret)).mod(ORDER);
    return joined(commitment, bytes(answer));
  }

  /** Whether a signature is one of the message by the key; every malformed key or signature is none. */
  static boolean verify(byte[] publicKey, byte[] message, byte[] signature) {
    if (publicKey.length != KEY_BYTES || signature.length != SIGNATURE_BYTES) {
      return false;
    }
    Point key = Point.decoded(publicKey);
    BigInteger answer = number(Arrays.copyOfRange(signature, 32, 64));
    if (key == null || answer.compareTo(ORDER) >= 0) {
      return false;
    }
    byte[] commitment = Arrays.copyOf(signature, 32);
    BigInteger challenge = number(sha512(commitment, publicKey, message)).mod(ORDER);
    // R = S B - k A, compared by its one encoding.
    Point expected = BASE.times(answer).plus(key.times(challenge).negated());
    return Arrays.equals(expected.encoded(), commitment);
  }

  private static Point base() {
    BigInteger y = BigInteger.valueOf(4).multiply(BigInteger.valueOf(5).modInverse(P)).mod(P);
    return Point.decoded(bytes(y));
  }

  private static BigInteger clamped(byte[] expanded) {
    byte[] scalar = Arrays.copyOf(expanded, 32);
    scalar[0] &= (byte) 248;
    scalar[31] &= 127;
    scalar[31] |= 64;
    return number(scalar);
  }

  private static byte[] sha512(byte[]... parts) {
    MessageDigest digest = Hashes.digest("SHA-512");
    for (byte[] part : parts) {
      digest.update(part);
    }
    return digest.digest();
  }

  /** The number that bytes are, lowest byte first. */
  private static BigInteger number(byte[] littleEndian) {
    return new BigInteger(1, reversed(littleEndian));
  }

  private static byte[] bytes(BigInteger number) {
    byte[] found = new byte[32];
    byte[] bigEndian = number.toByteArray();
    for (int i = 0; i < Math.min(32, bigEndian.length); i++) {
      found[i] = bigEndian[bigEndian.length - 1 - i];
    }
    return found;
  }

  private static byte[] reversed(byte[] content) {
    byte[] found = new byte[content.length];
    for (int i = 0; i < content.length; i++) {
      found[i] = content[content.length - 1 - i];
    }
    return found;
  }

  private static byte[] joined(byte[] first, byte[] second) {
    byte[] found = Arrays.copyOf(first, first.length + second.length);
    System.arraycopy(second, 0, found, first.length, second.length);
    return found;
  }

  /** A point (X : Y : Z : T) with x = X / Z, y = Y / Z, x y = T / Z. */
  private static final class Point {
    private static final Point ZERO = new Point(BigInteger.ZERO, BigInteger.ONE, BigInteger.ONE, BigInteger.ZERO);
    private final BigInteger x;
    private final BigInteger y;
    private final BigInteger z;
    private final BigInteger t;

    private Point(BigInteger x, BigInteger y, BigInteger z, BigInteger t) {
      this.x = x;
      this.y = y;
      this.z = z;
      this.t = t;
    }

    Point plus(Point other) {
      BigInteger a = product(y.subtract(x), other.y.subtract(other.x));
      BigInteger b = product(y.add(x), other.y.add(other.x));
      BigInteger c = product(product(t, other.t), D.shiftLeft(1));
      BigInteger d = product(z, other.z).shiftLeft(1);
      BigInteger e = b.subtract(a);
      BigInteger f = d.subtract(c);
      BigInteger g = d.add(c);
      BigInteger h = b.add(a);
      return new Point(product(e, f), product(g, h), product(f, g), product(e, h));
    }

    Point negated() {
      return new Point(P.subtract(x), y, z, P.subtract(t));
    }

    Point times(BigInteger scalar) {
      Point sum = ZERO;
      for (int bit = scalar.bitLength() - 1; bit >= 0; bit--) {
        sum = sum.plus(sum);
        if (scalar.testBit(bit)) {
          sum = sum.plus(this);
        }
      }
      return sum;
    }

    byte[] encoded() {
      BigInteger inverse = z.modInverse(P);
      byte[] found = bytes(product(y, inverse));
      if (product(x, inverse).testBit(0)) {
        found[31] |= (byte) 128;
      }
      return found;
    }

    /** The point of an encoding, null where there is none (RFC 8032, section 5.1.3). */
    static Point decoded(byte[] encoded) {
      byte[] withoutSign = encoded.clone();
      withoutSign[31] &= 127;
      boolean isOdd = withoutSign[31] != encoded[31];
      BigInteger y = number(withoutSign);
      if (y.compareTo(P) >= 0) {
        return null;
      }
      BigInteger ySquare = product(y, y);
      BigInteger u = ySquare.subtract(BigInteger.ONE).mod(P);
      BigInteger v = product(D, ySquare).add(BigInteger.ONE).mod(P);
      BigInteger xSquare = product(u, v.modInverse(P));
      BigInteger x = xSquare.modPow(P.add(BigInteger.valueOf(3)).shiftRight(3), P);
      if (!product(x, x).equals(xSquare)) {
        x = product(x, ROOT_OF_MINUS_ONE);
      }
      if (!product(x, x).equals(xSquare) || (x.signum() == 0 && isOdd)) {
        return null;
      }
      if (x.testBit(0) != isOdd) {
        x = P.subtract(x);
      }
      return new Point(x, y, BigInteger.ONE, product(x, y));
    }

    private static BigInteger product(BigInteger a, BigInteger b) {
      return a.multiply(b).mod(P);
    }
  }
}
