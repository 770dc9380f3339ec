package org.quadloom.core;

import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.InetAddress;
import java.net.MalformedURLException;
import java.net.Proxy;
import java.net.URL;
import java.net.UnknownHostException;

/** Where a server is: over TLS with a certificate that the platform trusts, or unencrypted on this device only. */
final class ServerAddress {
  private final URL url;

  /** @throws QuadloomException it is no address, or an unencrypted one to another machine */
  ServerAddress(String server, boolean allowUnencryptedHttp) throws QuadloomException {
    String remedy = "give an address like https://HOST:PORT";
    try {
      url = new URL(server);
    } catch (MalformedURLException error) {
      throw new QuadloomException("'" + server + "' is no address: " + error.getMessage(), remedy);
    }
    boolean isHttp = url.getProtocol().equals("http");
    if (!(isHttp || url.getProtocol().equals("https")) || url.getHost().isEmpty() || url.getQuery() != null) {
      throw new QuadloomException("'" + server + "' is no HTTP address", remedy);
    }
    if (isHttp && !allowUnencryptedHttp && !isLoopback()) {
      throw new QuadloomException(
          "'" + server + "' is unencrypted and leads to another machine",
          "use https://, or accept that others read along and alter what is sent");
    }
  }

  /** The address of a path of the server. */
  URL at(String path) {
    try {
      return new URL(url.getProtocol(), url.getHost(), url.getPort(), url.getPath().replaceAll("/+$", "") + path);
    } catch (MalformedURLException error) {
      throw new AssertionError(error);
    }
  }

  /** A connection, not open yet. What stays on this device takes no proxy. */
  HttpURLConnection connect(URL target) throws IOException {
    return (HttpURLConnection) (isLoopback() ? target.openConnection(Proxy.NO_PROXY) : target.openConnection());
  }

  private boolean isLoopback() {
    String host = url.getHost();
    if (host.equals("localhost")) {
      return true;
    }
    boolean isNumeric = host.startsWith("[") || host.matches("[0-9.]+");
    try {
      return isNumeric && InetAddress.getByName(host).isLoopbackAddress();
    } catch (UnknownHostException error) {
      return false;
    }
  }

  @Override
  public String toString() {
    return url.toString();
  }
}
