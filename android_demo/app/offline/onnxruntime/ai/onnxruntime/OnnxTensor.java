package ai.onnxruntime;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Signatures only. */
public class OnnxTensor extends OnnxTensorLike {
  public static OnnxTensor createTensor(OrtEnvironment environment, FloatBuffer data, long[] shape)
      throws OrtException {
    throw new UnsupportedOperationException();
  }

  public static OnnxTensor createTensor(OrtEnvironment environment, LongBuffer data, long[] shape)
      throws OrtException {
    throw new UnsupportedOperationException();
  }

  public FloatBuffer getFloatBuffer() {
    throw new UnsupportedOperationException();
  }

  public LongBuffer getLongBuffer() {
    throw new UnsupportedOperationException();
  }
}
