package org.quadloom.core;

import java.nio.charset.StandardCharsets;

/** Why a server says no, as far as it explains itself. */
final class Refusal {
  private static final int DEEPEST = 4;
  private static final int LONGEST_CAUSE = 200;

  final String code;
  final String cause;
  final String remedy;

  /** The server's clock in seconds since the epoch, where that is what it complains about; else null. */
  final Double serverTimeS;

  private Refusal(String code, String cause, String remedy, Double serverTimeS) {
    this.code = code;
    this.cause = cause;
    this.remedy = remedy;
    this.serverTimeS = serverTimeS;
  }

  static Refusal read(byte[] content) {
    try {
      JsonFields fields = JsonFields.of(Json.parse(content, DEEPEST), "refusal");
      String code = fields.string("code");
      boolean isSkew = code.equals("clock-skew") && fields.has("server_time_s");
      Double serverTimeS = isSkew ? Double.valueOf(fields.number("server_time_s", 0, 1e11)) : null;
      return new Refusal(code, fields.string("cause"), fields.string("remedy"), serverTimeS);
    } catch (JsonException error) {
      String text = new String(content, StandardCharsets.UTF_8);
      String cause = text.isEmpty() ? "no explanation" : text.substring(0, Math.min(text.length(), LONGEST_CAUSE));
      return new Refusal("unknown", cause, "check that the address is that of a Quadloom server", null);
    }
  }
}
