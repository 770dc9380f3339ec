package ai.onnxruntime;

import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Signatures only. */
public class OrtSession implements AutoCloseable {
  public Result run(Map<String, ? extends OnnxTensorLike> inputs, Set<String> requestedOutputs) throws OrtException {
    throw new UnsupportedOperationException();
  }

  @Override
  public void close() throws OrtException {
    throw new UnsupportedOperationException();
  }

  /** Signature only. */
  public static class Result implements AutoCloseable {
    public Optional<OnnxValue> get(String key) {
      throw new UnsupportedOperationException();
    }

    @Override
    public void close() {
      throw new UnsupportedOperationException();
    }
  }

  /** Signatures only. */
  public static class SessionOptions implements AutoCloseable {
    /** Signature only. */
    public enum OptLevel {
      NO_OPT
    }

    public void setOptimizationLevel(OptLevel level) throws OrtException {
      throw new UnsupportedOperationException();
    }

    public void setMemoryPatternOptimization(boolean on) throws OrtException {
      throw new UnsupportedOperationException();
    }

    public void setIntraOpNumThreads(int threads) throws OrtException {
      throw new UnsupportedOperationException();
    }

    public void setInterOpNumThreads(int threads) throws OrtException {
      throw new UnsupportedOperationException();
    }

    public void addConfigEntry(String key, String value) throws OrtException {
      throw new UnsupportedOperationException();
    }

    @Override
    public void close() {
      throw new UnsupportedOperationException();
    }
  }
}
