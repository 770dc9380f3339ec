package org.quadloom.core;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.security.cert.CertificateException;
import java.util.Map;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLPeerUnverifiedException;

/** One signed request to the server at a time. */
final class SignedHttp {
  private static final int TIMEOUT_MS = 30_000;
  private static final int LARGEST_MESSAGE_BYTES = 8 << 20;
  private static final int CHUNK_BYTES = 1 << 16;
  private static final int HTTP_TOO_MANY_REQUESTS = 429;
  private static final double LONGEST_RETRY_AFTER_S = 60;
  private static final byte[] NOTHING = new byte[0];

  final ServerAddress server;
  final RequestSigner signer;

  SignedHttp(ServerAddress server, RequestSigner signer) {
    this.server = server;
    this.signer = signer;
  }

  /**
   * Send a request; if this device's clock is wrong, take over the server's and send it once more.
   *
   * @param content the body, empty for GET
   * @return a successful answer, or one with {@code otherStatus}; the caller closes its stream
   * @throws TryAgainException the server cannot answer just now
   * @throws RefusedException it says no
   * @throws IOException the connection broke
   */
  HttpURLConnection send(String method, String path, byte[] content, Map<String, String> headers, int otherStatus)
      throws IOException, QuadloomException {
    try {
      HttpURLConnection answer = sendOnce(method, path, content, headers);
      if (answer.getResponseCode() == HttpURLConnection.HTTP_UNAUTHORIZED) {
        Refusal refusal = Refusal.read(errorBody(answer));
        if (refusal.code.equals("replayed-request")) { // the platform has repeated it by itself
          throw new TryAgainException(refusal.cause, 0);
        }
        if (refusal.serverTimeS == null) {
          throw new RefusedException(HttpURLConnection.HTTP_UNAUTHORIZED, refusal);
        }
        signer.correctClock(refusal.serverTimeS);
        answer = sendOnce(method, path, content, headers);
      }
      int status = answer.getResponseCode();
      if (status / 100 != 2 && status != otherStatus) {
        throw refused(answer, status);
      }
      return answer;
    } catch (SSLException error) {
      if (!isUntrusted(error)) {
        throw error; // a connection that breaks in the handshake is one that broke
      }
      throw new QuadloomException(
          "the certificate of " + server + " is not trusted: " + error.getMessage(),
          "name the server as its certificate does, and let this device trust its authority");
    }
  }

  /**
   * The body of a successful answer that is a message.
   *
   * @throws IOException the connection broke, or ended before all of it was here
   */
  static byte[] body(HttpURLConnection answer) throws IOException {
    try (InputStream in = answer.getInputStream()) {
      return readAll(answer, in);
    } finally {
      answer.disconnect();
    }
  }

  /**
   * Check that an answer's body came whole: not every platform says so when the connection ends too soon.
   *
   * @throws IOException fewer or more bytes came than the answer states
   */
  static void requireWhole(HttpURLConnection answer, long size) throws IOException {
    String stated = answer.getHeaderField("Content-Length");
    if (stated != null && !stated.equals(String.valueOf(size))) {
      throw new IOException("the connection ended after " + size + " of " + stated + " bytes");
    }
  }

  private static boolean isUntrusted(SSLException error) {
    if (error instanceof SSLPeerUnverifiedException) {
      return true;
    }
    for (Throwable cause = error; cause != null; cause = cause.getCause()) {
      if (cause instanceof CertificateException) {
        return true;
      }
    }
    return false;
  }

  private HttpURLConnection sendOnce(String method, String path, byte[] content, Map<String, String> headers)
      throws IOException {
    URL url = server.at(path);
    HttpURLConnection connection = server.connect(url);
    connection.setConnectTimeout(TIMEOUT_MS);
    connection.setReadTimeout(TIMEOUT_MS);
    connection.setInstanceFollowRedirects(false);
    connection.setUseCaches(false);
    connection.setRequestMethod(method);
    // A connection that is kept may be dead, and the platform would then repeat the request with the same signature,
    // which the server takes once only.
    connection.setRequestProperty("Connection", "close");
    // A compressed body would have other offsets than the file.
    connection.setRequestProperty("Accept-Encoding", "identity");
    for (Map.Entry<String, String> header : headers.entrySet()) {
      connection.setRequestProperty(header.getKey(), header.getValue());
    }
    for (Map.Entry<String, String> field : signer.fields(method, url.getPath(), content).entrySet()) {
      connection.setRequestProperty(field.getKey(), field.getValue());
    }
    if (content.length > 0) {
      connection.setDoOutput(true);
      try (OutputStream out = connection.getOutputStream()) {
        out.write(content);
      }
    }
    return connection;
  }

  private static QuadloomException refused(HttpURLConnection answer, int status) throws IOException {
    Refusal refusal = Refusal.read(errorBody(answer));
    boolean isTemporary =
        status >= 500 || status == HttpURLConnection.HTTP_CLIENT_TIMEOUT || status == HTTP_TOO_MANY_REQUESTS;
    if (isTemporary) {
      throw new TryAgainException("HTTP " + status + ": " + refusal.cause, retryAfterS(answer));
    }
    return new RefusedException(status, refusal);
  }

  /** What the server asks for, within reason; a proxy may also send a date, which is not needed here. */
  private static double retryAfterS(HttpURLConnection answer) {
    String stated = answer.getHeaderField("Retry-After");
    boolean isNumber = stated != null && stated.matches("[0-9]{1,9}");
    return isNumber ? Math.min(Double.parseDouble(stated), LONGEST_RETRY_AFTER_S) : 0;
  }

  private static byte[] errorBody(HttpURLConnection answer) throws IOException {
    try (InputStream in = answer.getErrorStream()) {
      return in == null ? NOTHING : readAll(answer, in);
    } finally {
      answer.disconnect();
    }
  }

  private static byte[] readAll(HttpURLConnection answer, InputStream in) throws IOException {
    ByteArrayOutputStream found = new ByteArrayOutputStream();
    byte[] chunk = new byte[CHUNK_BYTES];
    for (int size = in.read(chunk); size >= 0; size = in.read(chunk)) {
      found.write(chunk, 0, size);
      if (found.size() > LARGEST_MESSAGE_BYTES) {
        throw new IOException("the answer has more than " + LARGEST_MESSAGE_BYTES + " bytes");
      }
    }
    requireWhole(answer, found.size());
    return found.toByteArray();
  }
}
