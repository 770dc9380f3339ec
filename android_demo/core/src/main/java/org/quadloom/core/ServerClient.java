package org.quadloom.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** Speaks a device's part of the protocol; requests are retried, downloads resume. */
final class ServerClient {
  private static final int DOWNLOAD_ATTEMPTS = 2;
  private static final int CHUNK_BYTES = 1 << 16;
  private static final int NO_OTHER_STATUS = 0;
  private static final int HTTP_RANGE_NOT_SATISFIABLE = 416;

  final Traffic traffic = new Traffic();
  private final SignedHttp http;
  private final Retry retry;
  private final StopSignal stop;

  ServerClient(SignedHttp http, Retry retry, StopSignal stop) {
    this.http = http;
    this.retry = retry;
    this.stop = stop;
  }

  /** Introduce this device; again with the same key updates what the server knows of it. */
  Answers.Enrolled enrol(String name, Map<String, Object> capabilities, String token) throws QuadloomException {
    http.signer.keyId = http.signer.publicKey; // the server may have forgotten the id, or given none yet
    Map<String, Object> request = message();
    request.put("name", name);
    request.put("capabilities", capabilities);
    request.put("public_key", http.signer.publicKey);
    request.put("enrolment_token", token);
    Answers.Enrolled answer = Answers.enrolled(post("/v1/devices", request));
    http.signer.keyId = answer.deviceId;
    return answer;
  }

  /** Ask for work. */
  Answers.CheckedIn checkIn(String deviceId) throws QuadloomException {
    return Answers.checkedIn(post("/v1/devices/" + deviceId + "/check-in", message()));
  }

  /** Send an update (safetensors); sending it again is safe. */
  Answers.Reported reportUpdate(Assignment assignment, byte[] content) throws QuadloomException {
    String path = "/v1/assignments/" + assignment.assignmentId + "/update";
    return Answers.reported(send("PUT", path, content, "application/vnd.safetensors"));
  }

  /** Say that an assignment cannot be done. */
  Answers.Reported reportFailure(Assignment assignment, String kind, String text) throws QuadloomException {
    Map<String, Object> report = message();
    report.put("kind", kind);
    report.put("message", text);
    return Answers.reported(post("/v1/assignments/" + assignment.assignmentId + "/failure", report));
  }

  /**
   * Bring a blob into the cache, continuing an earlier download.
   *
   * @param largestBytes more than this is not taken in, so that no server fills the storage
   */
  void download(final String sha256, final BlobCache cache, final long largestBytes) throws QuadloomException {
    for (int attempt = 0; attempt < DOWNLOAD_ATTEMPTS; attempt++) {
      long started = System.nanoTime();
      retry.run(
          new Retry.Attempt<Void>() {
            @Override
            public Void run() throws IOException, QuadloomException {
              downloadRest(sha256, cache.partial(sha256), largestBytes);
              return null;
            }

            @Override
            public long progress() {
              return traffic.downBytes;
            }
          });
      traffic.downloadS += (System.nanoTime() - started) / 1e9;
      if (cache.acceptPartial(sha256)) {
        return;
      }
    }
    throw new QuadloomException(
        "blob " + sha256 + " was sent with another content " + DOWNLOAD_ATTEMPTS + " times by " + http.server,
        "check the server's family with `quadloom inspect DIR --verify`, or a proxy in between");
  }

  private void downloadRest(String sha256, File partial, long largestBytes) throws IOException, QuadloomException {
    DurableFiles.makeFolder(partial.getParentFile());
    long here = partial.length();
    Map<String, String> headers = new LinkedHashMap<>();
    if (here > 0) {
      headers.put("Range", "bytes=" + here + "-");
    }
    HttpURLConnection answer =
        http.send("GET", "/v1/blobs/" + sha256, new byte[0], headers, HTTP_RANGE_NOT_SATISFIABLE);
    try {
      if (answer.getResponseCode() != HTTP_RANGE_NOT_SATISFIABLE) { // else all of it is here: the hash decides
        boolean resumes = answer.getResponseCode() == HttpURLConnection.HTTP_PARTIAL;
        take(answer, partial, resumes ? here : 0, sha256, largestBytes);
      }
    } finally {
      answer.disconnect();
    }
  }

  /** Write an answer's body into a file behind the bytes that are {@code kept} of it. */
  private void take(HttpURLConnection answer, File partial, long kept, String sha256, long largestBytes)
      throws IOException, QuadloomException {
    long size = kept;
    byte[] chunk = new byte[CHUNK_BYTES];
    try (InputStream in = answer.getInputStream();
        FileOutputStream out = new FileOutputStream(partial, kept > 0)) {
      for (int read = in.read(chunk); read >= 0; read = in.read(chunk)) {
        size += read;
        if (size > largestBytes) {
          partial.delete();
          throw new QuadloomException(
              "blob " + sha256 + " was sent with more than its " + largestBytes + " bytes",
              "check the server's family with `quadloom inspect DIR --verify`, or a proxy in between");
        }
        write(out, chunk, read, partial);
        traffic.downBytes += read;
        stop.check();
      }
    }
    SignedHttp.requireWhole(answer, size - kept);
  }

  /** A full storage is no matter of the server, and not to be tried again for long. */
  private static void write(FileOutputStream out, byte[] chunk, int size, File file) throws QuadloomException {
    try {
      out.write(chunk, 0, size);
    } catch (IOException error) {
      throw DurableFiles.failed(file, error);
    }
  }

  private byte[] post(String path, Map<String, Object> message) throws QuadloomException {
    return send("POST", path, Json.write(message).getBytes(StandardCharsets.UTF_8), "application/json");
  }

  private byte[] send(final String method, final String path, final byte[] content, final String mediaType)
      throws QuadloomException {
    return retry.run(
        new Retry.Attempt<byte[]>() {
          @Override
          public byte[] run() throws IOException, QuadloomException {
            Map<String, String> headers = Collections.singletonMap("Content-Type", mediaType);
            return SignedHttp.body(http.send(method, path, content, headers, NO_OTHER_STATUS));
          }

          @Override
          public long progress() {
            return 0;
          }
        });
  }

  private static Map<String, Object> message() {
    Map<String, Object> message = new LinkedHashMap<>();
    message.put("schema_version", 1);
    return message;
  }
}
