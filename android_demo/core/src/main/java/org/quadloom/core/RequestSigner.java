package org.quadloom.core;

import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.time.Clock;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Signs requests with the device's key: the profile of HTTP Message Signatures (RFC 9421) and Digest Fields (RFC 9530)
 * that {@code quadloom_runtime.contract.signatures} describes.
 */
final class RequestSigner {
  private static final int NONCE_BYTES = 16;

  /** The text of the device's public key. */
  final String publicKey;

  /** What the server knows the key by: the device's id, before it has one the text of the key. */
  String keyId;

  private final byte[] seed;
  private final Clock clock;
  private final SecureRandom random = new SecureRandom();
  private double offsetS;

  RequestSigner(byte[] seed, Clock clock) {
    this.seed = seed;
    this.clock = clock;
    publicKey = Base64.getEncoder().encodeToString(Ed25519.publicKey(seed));
    keyId = publicKey;
  }

  /** Take over the server's clock, seconds since the epoch. */
  void correctClock(double serverTimeS) {
    offsetS = serverTimeS - clock.millis() / 1000.0;
  }

  /** The fields to send with a request, with a time and a nonce of their own; {@code target} has no query. */
  Map<String, String> fields(String method, String target, byte[] content) {
    byte[] nonce = new byte[NONCE_BYTES];
    random.nextBytes(nonce);
    long createdS = (long) Math.floor(clock.millis() / 1000.0 + offsetS);
    String digest = "sha-256=:" + text(Hashes.sha256(content)) + ":";
    String parameters =
        "(\"@method\" \"@path\" \"content-digest\");created="
            + createdS
            + (";keyid=\"" + keyId + "\";alg=\"ed25519\";nonce=\"" + text(nonce) + "\"");
    String base =
        ("\"@method\": " + method + "\n\"@path\": " + target + "\n")
            + ("\"content-digest\": " + digest + "\n\"@signature-params\": " + parameters);
    Map<String, String> fields = new LinkedHashMap<>();
    fields.put("Content-Digest", digest);
    fields.put("Signature-Input", "quadloom=" + parameters);
    byte[] signature = Ed25519.sign(seed, base.getBytes(StandardCharsets.UTF_8));
    fields.put("Signature", "quadloom=:" + text(signature) + ":");
    return fields;
  }

  private static String text(byte[] content) {
    return Base64.getEncoder().encodeToString(content);
  }
}
