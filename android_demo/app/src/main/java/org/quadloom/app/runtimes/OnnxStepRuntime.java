package org.quadloom.app.runtimes;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.File;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import org.quadloom.core.Batch;
import org.quadloom.core.FloatTensor;
import org.quadloom.core.Member;
import org.quadloom.core.QuadloomException;
import org.quadloom.core.StepOutOfMemoryException;
import org.quadloom.core.StepResult;
import org.quadloom.core.StepRuntime;
import org.quadloom.core.TensorSpec;

/**
 * A member's graph on plain ONNX Runtime.
 *
 * <p>The tensors are not bound to their places in the exporter's arena, as the Python engine does: ONNX Runtime allocates
 * them, and a step takes more memory than the manifest plans. The peak that is measured and reported is the real one.
 */
final class OnnxStepRuntime implements StepRuntime {
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession session;
  private final Member member;
  private final Set<String> outputs = new LinkedHashSet<>();

  /**
   * Load the graph; its weights are found beside it.
   *
   * @throws StepOutOfMemoryException it did not fit the memory
   * @throws QuadloomException it cannot be loaded
   */
  OnnxStepRuntime(File graph, Member member, int threads) throws QuadloomException {
    this.member = member;
    for (TensorSpec spec : member.outputs) {
      outputs.add(spec.name);
    }
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      environment.setTelemetry(false);
      // Optimizers reorder and fuse; the exporter has already done what it wants done.
      options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.NO_OPT);
      options.addConfigEntry("session.disable_quant_qdq", "1");
      // A packed copy of the weights would live in anonymous memory; unpacked, they stay mapped from the file.
      options.addConfigEntry("session.disable_prepacking", "1");
      options.setMemoryPatternOptimization(false);
      options.setIntraOpNumThreads(threads);
      options.setInterOpNumThreads(1);
      session = environment.createSession(graph.getPath(), options);
    } catch (OrtException | RuntimeException | OutOfMemoryError error) {
      throw Failures.translated(member, "ONNX Runtime cannot load " + graph.getName(), error);
    }
  }

  @Override
  public StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    Map<String, OnnxTensor> inputs = new HashMap<>();
    try {
      for (TensorSpec spec : member.inputs) {
        inputs.put(spec.name, tensor(spec, Feeds.input(spec, parameters, batch), batch.batchSize));
      }
      try (OrtSession.Result found = session.run(inputs, outputs)) {
        return result(found, parameters);
      }
    } catch (OrtException | RuntimeException | OutOfMemoryError error) {
      throw Failures.translated(member, "ONNX Runtime cannot run " + member.key.label(), error);
    } finally {
      for (OnnxTensor tensor : inputs.values()) {
        tensor.close();
      }
    }
  }

  @Override
  public void close() {
    try {
      session.close();
    } catch (OrtException error) {
      throw new IllegalStateException("ONNX Runtime cannot close " + member.key.label(), error);
    }
  }

  private OnnxTensor tensor(TensorSpec spec, Object values, int batchSize) throws OrtException {
    long[] shape = spec.shape.clone();
    for (int axis = 0; axis < shape.length; axis++) {
      shape[axis] = shape[axis] == TensorSpec.OPEN ? batchSize : shape[axis];
    }
    return values instanceof float[]
        ? OnnxTensor.createTensor(environment, FloatBuffer.wrap((float[]) values), shape)
        : OnnxTensor.createTensor(environment, LongBuffer.wrap((long[]) values), shape);
  }

  private StepResult result(OrtSession.Result found, Map<String, FloatTensor> parameters) throws QuadloomException {
    Map<String, Double> scalars = new HashMap<>();
    Map<String, FloatTensor> gradients = new HashMap<>();
    for (TensorSpec spec : member.outputs) {
      OnnxValue value = found.get(spec.name).get();
      OnnxTensor tensor = (OnnxTensor) value;
      if (spec.name.startsWith(Feeds.GRADIENT_PREFIX)) {
        String name = spec.name.substring(Feeds.GRADIENT_PREFIX.length());
        gradients.put(name, new FloatTensor(parameters.get(name).shape(), floats(tensor)));
      } else {
        scalars.put(spec.name, spec.dtype.equals("int64") ? (double) tensor.getLongBuffer().get() : floats(tensor)[0]);
      }
    }
    return Feeds.result(scalars, gradients);
  }

  private static float[] floats(OnnxTensor tensor) {
    FloatBuffer buffer = tensor.getFloatBuffer();
    float[] values = new float[buffer.remaining()];
    buffer.get(values);
    return values;
  }
}
