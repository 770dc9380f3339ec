package org.quadloom.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.time.Clock;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import org.junit.Test;

/** Connections that break at any place are tried again; a server that is not who it should be is left alone. */
public final class ConnectionsTest {
  private static final double PATIENCE_S = 60;
  private static final String ANSWER =
      "{\"schema_version\":1,\"task_state\":\"finished\",\"retry_after_s\":1,\"reason\":\"r\",\"assignment\":null}";

  /** What a server does with one connection; it is closed then. */
  private interface Answer {
    void to(Socket connection) throws Exception;
  }

  @Test
  public void aHandshakeThatBreaksOffIsTriedAgainAndAnUnknownCertificateIsNot() throws Exception {
    List<String> retries = new ArrayList<>();
    try (ServerSocket server = serve(ConnectionsTest::hangUp, ConnectionsTest::speakTls)) {
      checkIn("https", server, retries);
      fail("an unknown certificate was trusted");
    } catch (QuadloomException expected) {
      assertTrue(expected.getMessage(), expected.getMessage().contains("is not trusted"));
    }
    assertEquals(retries.toString(), 1, retries.size());
  }

  @Test
  public void anAnswerThatIsCutShortIsAskedForAgain() throws Exception {
    List<String> retries = new ArrayList<>();
    String refusal = "{\"code\":\"unknown-device\",\"cause\":\"c\",\"remedy\":\"r\"}";
    try (ServerSocket server =
        serve(
            connection -> answer(connection, "200 OK", ANSWER, 20),
            connection -> answer(connection, "404 Not Found", refusal, 20),
            connection -> answer(connection, "200 OK", ANSWER, ANSWER.length()))) {
      assertTrue(checkIn("http", server, retries).isFinished);
    }
    assertEquals(retries.toString(), 2, retries.size());
    assertTrue(retries.get(0), retries.get(0).contains("20 of " + ANSWER.length() + " bytes"));
  }

  private static Answers.CheckedIn checkIn(String scheme, ServerSocket server, List<String> retries)
      throws QuadloomException {
    ServerAddress address = new ServerAddress(scheme + "://127.0.0.1:" + server.getLocalPort(), false);
    TrainingProgress progress =
        new TrainingProgress() {
          @Override
          public void said(String event, String line) {
            retries.add(line);
          }

          @Override
          public void stepped(int roundIndex, int step, int ofSteps, double loss, long peakStepBytes) {}
        };
    StopSignal stop = new StopSignal();
    SignedHttp http = new SignedHttp(address, new RequestSigner(new byte[32], Clock.systemUTC()));
    return new ServerClient(http, new Retry(scheme, PATIENCE_S, stop, progress), stop).checkIn("device");
  }

  /** A server that gives each connection the next of these answers. */
  private static ServerSocket serve(Answer... answers) throws IOException {
    ServerSocket server = new ServerSocket(0, answers.length, InetAddress.getByName("127.0.0.1"));
    Thread serving =
        new Thread(
            () -> {
              for (Answer each : answers) {
                try (Socket connection = server.accept()) {
                  each.to(connection);
                } catch (Exception error) {
                  // The device ends a handshake that it does not like; the test sees what it makes of it.
                }
              }
            });
    serving.setDaemon(true);
    serving.start();
    return server;
  }

  private static void hangUp(Socket connection) throws IOException {
    connection.getInputStream().read();
  }

  /** Shake hands with a certificate that nobody knows. */
  private static void speakTls(Socket connection) throws Exception {
    char[] password = "vectors".toCharArray();
    KeyStore keys = KeyStore.getInstance("PKCS12");
    keys.load(new ByteArrayInputStream(Vectors.bytes("certificate.p12")), password);
    KeyManagerFactory managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
    managers.init(keys, password);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(managers.getKeyManagers(), null, null);
    SSLSocket secured = (SSLSocket) context.getSocketFactory().createSocket(connection, "127.0.0.1", 0, true);
    secured.setUseClientMode(false);
    secured.startHandshake();
    secured.getInputStream().read();
  }

  /** Answer a request, but end after the first bytes of the body. */
  private static void answer(Socket connection, String status, String body, int bytes) throws IOException {
    readRequest(connection.getInputStream());
    String head = "HTTP/1.1 " + status + "\r\nContent-Length: " + body.length() + "\r\nConnection: close\r\n\r\n";
    connection.getOutputStream().write((head + body.substring(0, bytes)).getBytes(StandardCharsets.US_ASCII));
  }

  /** Read to the end: else the connection would end with a reset, which any platform notices. */
  private static void readRequest(InputStream in) throws IOException {
    StringBuilder head = new StringBuilder();
    while (head.indexOf("\r\n\r\n") < 0) {
      head.append((char) in.read());
    }
    String length = head.toString().toLowerCase(Locale.ROOT).split("content-length: ")[1].split("\r\n")[0];
    for (int i = 0; i < Integer.parseInt(length); i++) {
      in.read();
    }
  }
}
