package ai.onnxruntime;

/** Signature only. */
public abstract class OnnxTensorLike implements OnnxValue {
  @Override
  public void close() {
    throw new UnsupportedOperationException();
  }
}
