package org.quadloom.core;

/** The server did not answer for as long as patience lasts. */
public final class ServerUnreachableException extends QuadloomException {
  private static final long serialVersionUID = 1;

  ServerUnreachableException(String server, double patienceS, String cause) {
    super(
        "the server " + server + " did not answer for " + patienceS + " s: " + cause,
        "check that `quadloom serve` runs there and that its address is right");
  }
}
