package org.quadloom.app.runtimes;

import java.io.File;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.pytorch.executorch.DType;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;
import org.quadloom.core.Batch;
import org.quadloom.core.FloatTensor;
import org.quadloom.core.Member;
import org.quadloom.core.QuadloomException;
import org.quadloom.core.StepOutOfMemoryException;
import org.quadloom.core.StepResult;
import org.quadloom.core.StepRuntime;
import org.quadloom.core.TensorSpec;

/**
 * A member's method in a family's single ExecuTorch program, which is mapped from its file.
 *
 * <p>Of all methods only the one that is called takes memory, from its first step on.
 */
final class ExecutorchStepRuntime implements StepRuntime {
  private final Module module;
  private final String method;
  private final Member member;
  private final FloatBuffer[] floats;
  private final LongBuffer[] integers;
  private final EValue[] inputs;

  /**
   * Load the program.
   *
   * @throws StepOutOfMemoryException the inputs did not fit the memory
   * @throws QuadloomException the file is no program, or has no such method
   */
  ExecutorchStepRuntime(File program, Member member, int threads) throws QuadloomException {
    this.member = member;
    method = methodName(member);
    int count = member.inputs.size();
    floats = new FloatBuffer[count];
    integers = new LongBuffer[count];
    inputs = new EValue[count];
    try {
      for (int index = 0; index < count; index++) {
        inputs[index] = EValue.from(input(index, member.inputs.get(index)));
      }
      module = Module.load(program.getPath(), Module.LOAD_MODE_MMAP, threads);
    } catch (RuntimeException | OutOfMemoryError error) {
      throw Failures.translated(member, "ExecuTorch cannot load " + program.getName(), error);
    }
    if (!Arrays.asList(module.getMethods()).contains(method)) {
      module.destroy();
      throw new QuadloomException("the program " + program + " has no method " + method, Failures.FETCH_AGAIN);
    }
  }

  /** Name of a member's method in the single program: {@code train_d06_q04_r30}. */
  static String methodName(Member member) {
    return "train_" + member.key.stem().replace('-', '_');
  }

  @Override
  public StepResult step(Map<String, FloatTensor> parameters, Batch batch) throws QuadloomException {
    for (int index = 0; index < inputs.length; index++) {
      fill(index, Feeds.input(member.inputs.get(index), parameters, batch));
    }
    try {
      return result(module.execute(method, inputs));
    } catch (RuntimeException | OutOfMemoryError error) {
      throw Failures.translated(member, "ExecuTorch cannot run " + method, error);
    }
  }

  @Override
  public void close() {
    module.destroy();
  }

  /** A tensor over a buffer that every step fills anew. */
  private Tensor input(int index, TensorSpec spec) {
    int elements = Math.toIntExact(Tensor.numel(spec.shape));
    if (spec.dtype.equals("float32")) {
      floats[index] = Tensor.allocateFloatBuffer(elements);
      return Tensor.fromBlob(floats[index], spec.shape);
    }
    integers[index] = Tensor.allocateLongBuffer(elements);
    return Tensor.fromBlob(integers[index], spec.shape);
  }

  private void fill(int index, Object values) throws QuadloomException {
    int wanted = floats[index] != null ? floats[index].capacity() : integers[index].capacity();
    int found = values instanceof float[] ? ((float[]) values).length : ((long[]) values).length;
    if (found != wanted) {
      throw new QuadloomException(
          "the input " + member.inputs.get(index).name + " has " + found + " elements, the program takes " + wanted,
          "give parameters and batches of the family's shapes");
    }
    if (values instanceof float[]) {
      floats[index].rewind();
      floats[index].put((float[]) values).rewind();
    } else {
      integers[index].rewind();
      integers[index].put((long[]) values).rewind();
    }
  }

  /** The outputs, copied: they lie in the method's arena, which the next step writes over. */
  private StepResult result(EValue[] outputs) throws QuadloomException {
    List<TensorSpec> specs = member.outputs;
    if (outputs.length != specs.size()) {
      throw new QuadloomException(
          method + " has " + outputs.length + " outputs, the manifest states " + specs.size(), Failures.FETCH_AGAIN);
    }
    Map<String, Double> scalars = new HashMap<>();
    Map<String, FloatTensor> gradients = new HashMap<>();
    for (int index = 0; index < outputs.length; index++) {
      TensorSpec spec = specs.get(index);
      Tensor tensor = outputs[index].toTensor();
      if (spec.name.startsWith(Feeds.GRADIENT_PREFIX)) {
        gradients.put(
            spec.name.substring(Feeds.GRADIENT_PREFIX.length()),
            new FloatTensor(tensor.shape(), tensor.getDataAsFloatArray()));
      } else {
        scalars.put(spec.name, scalar(tensor));
      }
    }
    return Feeds.result(scalars, gradients);
  }

  private static double scalar(Tensor tensor) {
    return tensor.dtype() == DType.INT64 ? tensor.getDataAsLongArray()[0] : tensor.getDataAsFloatArray()[0];
  }
}
