/** Train one member on local data, independent of the engine: the loop of quadloom_runtime/trainer.py. */
import { batches } from "./batches.js";
import { epochRows } from "./epoch_order.js";
import { QuadloomError } from "./errors.js";
import { clipByGlobalNorm, globalNorm, makeOptimizer, scheduled } from "./optimizers.js";

/** Where training stands; with it, it goes on after a stop as if there had been none. */
const START = {
  step: 0,
  parameters: new Map(),
  optimizerState: undefined,
  losses: [],
  examples: 0,
  trainS: 0,
  gradientNorms: new Map(),
};

/**
 * Run the optimizer over the local data.
 *
 * @param {object} job
 * @param job.engine its `step(parameters, batch)` gives loss, number of predictions and gradients
 * @param {Map<string, Float32Array>} job.parameters the global value of every row of the table; left unchanged
 * @param {object[]} job.trained rows of the table that the member trains
 * @param {object} job.data rows of token ids and their labels
 * @param {object} job.shape batch size and sequence length
 * @param {object} job.settings TrainingSettings of the assignment
 * @param {object} job.resume where an earlier run with the same arguments stood
 * @param {(checkpoint: object, steps: number) => void} job.onStep told after each optimizer step
 */
export async function train({ engine, parameters, trained, data, shape, settings, resume = START, onStep }) {
  const current = new Map([...parameters, ...resume.parameters]);
  const optimizer = makeOptimizer(settings, resume.optimizerState);
  const steps = plannedSteps(data.length, shape.batch_size, settings);
  let at = resume;
  for (const group of stepBatches(data, shape, settings, at.step, steps)) {
    const started = performance.now();
    const found = await accumulate(engine, current, group);
    const norms = layerNorms(found.gradients, trained);
    checkFinite(found.losses, norms, at.step + 1);
    if (settings.clip_norm !== null) clipByGlobalNorm(found.gradients, settings.clip_norm);
    optimizer.update(current, found.gradients, rates(trained, settings, at.step, steps));
    at = {
      step: at.step + 1,
      parameters: new Map(trained.map((row) => [row.name, current.get(row.name)])),
      optimizerState: optimizer.state,
      losses: [...at.losses, ...found.losses],
      examples: at.examples + found.examples,
      trainS: at.trainS + (performance.now() - started) / 1000,
      gradientNorms: new Map(
        [...norms].map(([layer, norm]) => [layer, [...(at.gradientNorms.get(layer) ?? []), norm]]),
      ),
    };
    onStep(at, steps);
  }
  return outcome(at, parameters, differentRows(data, settings, shape.batch_size, at.step));
}

/** Optimizer steps that the settings ask for. */
function plannedSteps(examples, batchSize, settings) {
  const steps = settings.epochs * Math.ceil(Math.ceil(examples / batchSize) / settings.accumulation);
  return settings.max_steps === null ? steps : Math.min(steps, settings.max_steps);
}

/**
 * The batches of each optimizer step that is still to be made; an epoch's last step may have fewer.
 *
 * Each is built when it is asked for: those of a whole epoch would take as much memory as the data once more.
 */
function* stepBatches(data, shape, settings, made, steps) {
  const rowsPerStep = shape.batch_size * settings.accumulation;
  const stepsPerEpoch = Math.ceil(data.length / rowsPerStep);
  let step = made;
  while (step < steps) {
    const order = epochRows(data.labels, settings, Math.floor(step / stepsPerEpoch));
    for (let inEpoch = step % stepsPerEpoch; inEpoch < stepsPerEpoch && step < steps; inEpoch++, step++) {
      const first = inEpoch * rowsPerStep;
      yield [...batches(data, order.slice(first, first + rowsPerStep), shape)];
    }
  }
}

/** Run the batches of one optimizer step; each weighs by its predictions that count, whatever its padding. */
async function accumulate(engine, parameters, group) {
  const gradients = new Map();
  const losses = [];
  let predictions = 0;
  let examples = 0;
  for (const batch of group) {
    const result = await engine.step(parameters, batch);
    for (const [name, gradient] of result.gradients) {
      const total = gradients.get(name) ?? new Float32Array(gradient.length);
      gradients.set(name, total);
      for (let place = 0; place < total.length; place++)
        total[place] += Math.fround(result.predictions * gradient[place]);
    }
    losses.push(result.loss);
    predictions += result.predictions;
    examples += batch.examples;
  }
  for (const gradient of gradients.values())
    gradient.forEach((value, place) => (gradient[place] = value / predictions));
  return { gradients, losses, examples };
}

/** L2 norm of the gradient of each trained layer, over all of its LoRA tensors together; the head has none. */
function layerNorms(gradients, trained) {
  const layers = new Set(trained.map((row) => row.layer).filter((layer) => layer !== "head"));
  const ofLayer = (layer) => trained.filter((row) => row.layer === layer).map((row) => gradients.get(row.name));
  return new Map([...layers].map((layer) => [layer, globalNorm(ofLayer(layer))]));
}

function rates(trained, settings, step, steps) {
  const head = new Set(trained.filter((row) => row.layer === "head").map((row) => row.name));
  const rate = (value) => scheduled(value, settings.schedule, step, steps);
  return (name) => rate(head.has(name) ? settings.head_learning_rate : settings.learning_rate);
}

function checkFinite(losses, norms, step) {
  const wrong =
    losses.find((loss) => !Number.isFinite(loss)) ?? [...norms.values()].find((norm) => !Number.isFinite(norm));
  if (wrong !== undefined) {
    throw new QuadloomError(
      `training diverged: a loss or gradient of step ${step} is ${wrong}`,
      "lower the learning rate",
    );
  }
}

/** Rows that the first `steps` optimizer steps have seen, each counted once. */
function differentRows(data, settings, batchSize, steps) {
  const rowsPerStep = batchSize * settings.accumulation;
  const seen = new Set();
  for (let epoch = 0; epoch < settings.epochs && steps > 0; epoch++) {
    const order = epochRows(data.labels, settings, epoch);
    order.slice(0, steps * rowsPerStep).forEach((row) => seen.add(row));
    steps -= Math.ceil(order.length / rowsPerStep);
  }
  return seen.size;
}

function outcome(at, old, examplesAtMost) {
  const tenth = Math.max(1, Math.floor(at.losses.length / 10));
  const change = ([name, values]) => [name, values.map((value, place) => value - old.get(name)[place])];
  return {
    update: new Map([...at.parameters].map(change)),
    examples: Math.min(at.examples, examplesAtMost),
    steps: at.step,
    lossFirst: mean(at.losses.slice(0, tenth)),
    lossLast: mean(at.losses.slice(-tenth)),
    trainS: at.trainS,
    gradientNorms: [...at.gradientNorms].sort(([left], [right]) => left - right).map(([, norms]) => median(norms)),
  };
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function median(values) {
  const sorted = [...values].sort((left, right) => left - right);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}
