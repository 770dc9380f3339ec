package org.quadloom.core;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Everything needed to go on with the training of an assignment after a stop, exactly as if there had been none. */
final class Checkpoint {
  private static final String PARAMETER = "parameter/";
  private static final String OPTIMIZER = "optimizer/";
  private static final String FIGURES = "figures";
  private static final int DEEPEST = 4;

  /** Optimizer steps made. */
  int step;

  /** Current values of the trained tensors; empty before the first step. */
  Map<String, FloatTensor> parameters = new LinkedHashMap<>();

  Map<String, FloatTensor> optimizerState = new HashMap<>();

  /** Mean loss of each batch so far. */
  final List<Double> losses = new ArrayList<>();

  /** Rows that counted so far; an example counts once per epoch. */
  long examples;

  double trainS;

  /** Trained layer to the norm of its gradient in each step so far, layers from the input on. */
  final TreeMap<Integer, List<Double>> gradientNorms = new TreeMap<>();

  byte[] write() {
    Map<String, FloatTensor> tensors = new LinkedHashMap<>();
    for (Map.Entry<String, FloatTensor> entry : parameters.entrySet()) {
      tensors.put(PARAMETER + entry.getKey(), entry.getValue());
    }
    for (Map.Entry<String, FloatTensor> entry : optimizerState.entrySet()) {
      tensors.put(OPTIMIZER + entry.getKey(), entry.getValue());
    }
    Map<String, Object> norms = new LinkedHashMap<>();
    for (Map.Entry<Integer, List<Double>> entry : gradientNorms.entrySet()) {
      norms.put(entry.getKey().toString(), entry.getValue());
    }
    Map<String, Object> figures = new LinkedHashMap<>();
    figures.put("step", step);
    figures.put("losses", losses);
    figures.put("examples", examples);
    figures.put("train_s", trainS);
    figures.put("gradient_norms", norms);
    Map<String, String> metadata = new HashMap<>();
    metadata.put(FIGURES, Json.write(figures));
    return new SafeTensors(tensors, metadata).write();
  }

  static Checkpoint read(byte[] content) throws QuadloomException {
    SafeTensors file = SafeTensors.read(content, "the checkpoint");
    Checkpoint found = new Checkpoint();
    for (Map.Entry<String, FloatTensor> entry : file.tensors.entrySet()) {
      boolean isParameter = entry.getKey().startsWith(PARAMETER);
      String name = entry.getKey().substring((isParameter ? PARAMETER : OPTIMIZER).length());
      (isParameter ? found.parameters : found.optimizerState).put(name, entry.getValue());
    }
    try {
      found.readFigures(file.metadata.get(FIGURES).getBytes(StandardCharsets.UTF_8));
    } catch (JsonException error) {
      throw new QuadloomException("the checkpoint is damaged: " + error.getMessage(), "let the device train again");
    }
    return found;
  }

  private void readFigures(byte[] content) throws JsonException {
    JsonFields figures = JsonFields.of(Json.parse(content, DEEPEST), FIGURES);
    step = figures.integer("step", 0, Integer.MAX_VALUE);
    examples = figures.whole("examples", 0, Long.MAX_VALUE);
    trainS = figures.number("train_s", 0, Double.MAX_VALUE);
    addNumbers(losses, figures.array("losses"));
    JsonFields norms = figures.object("gradient_norms");
    for (String layer : norms.names()) {
      List<Double> ofLayer = new ArrayList<>();
      addNumbers(ofLayer, norms.array(layer));
      gradientNorms.put(Integer.valueOf(layer), ofLayer);
    }
  }

  private static void addNumbers(List<Double> target, List<?> numbers) {
    for (Object each : numbers) {
      target.add(((Number) each).doubleValue());
    }
  }
}
