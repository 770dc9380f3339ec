package ai.onnxruntime;

/** Signatures only. */
public final class OrtEnvironment implements AutoCloseable {
  public static OrtEnvironment getEnvironment() {
    throw new UnsupportedOperationException();
  }

  public void setTelemetry(boolean sendTelemetry) throws OrtException {
    throw new UnsupportedOperationException();
  }

  public OrtSession createSession(String modelPath, OrtSession.SessionOptions options) throws OrtException {
    throw new UnsupportedOperationException();
  }

  @Override
  public void close() {
    throw new UnsupportedOperationException();
  }
}
