package ai.onnxruntime;

/** Signature only. */
public interface OnnxValue extends AutoCloseable {
  @Override
  void close();
}
