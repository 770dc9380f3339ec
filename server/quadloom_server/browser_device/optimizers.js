/** AdamW and SGD in float32, as `torch.optim` and Quadloom's Python devices compute them. */

const { fround } = Math;
const BETA1 = 0.9;
const BETA2 = 0.999;
const EPSILON = 1e-8;

/** `p -= rate (g + weight_decay p)`. It has no state. */
export class Sgd {
  constructor(weightDecay, state = {}) {
    this.state = state;
    this.weightDecay = fround(weightDecay);
  }

  /** One step over the tensors that have a gradient; `rateOf` gives the learning rate of a name. */
  update(parameters, gradients, rateOf) {
    for (const [name, gradient] of gradients) {
      const rate = fround(rateOf(name));
      const old = parameters.get(name);
      parameters.set(
        name,
        old.map((value, place) => value - rate * fround(gradient[place] + this.weightDecay * value)),
      );
    }
  }
}

/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101).
 *
 * `p -= rate weight_decay p + rate mean' / (sqrt(square') + epsilon)`, primes being bias-corrected.
 */
export class AdamW {
  constructor(weightDecay, state = {}) {
    this.weightDecay = weightDecay;
    this.state = { step: 0, means: new Map(), squares: new Map(), ...state };
  }

  /** One step over the tensors that have a gradient; `rateOf` gives the learning rate of a name. */
  update(parameters, gradients, rateOf) {
    const { means, squares } = this.state;
    this.state.step += 1;
    const meanCorrection = 1 - BETA1 ** this.state.step;
    const rootCorrection = fround(Math.sqrt(1 - BETA2 ** this.state.step));
    for (const [name, gradient] of gradients) {
      const rate = rateOf(name);
      const shrink = fround(1 - rate * this.weightDecay);
      const pace = fround(rate / meanCorrection);
      const mean = means.get(name) ?? new Float32Array(gradient.length);
      const square = squares.get(name) ?? new Float32Array(gradient.length);
      const values = parameters.get(name).slice(); // the old array stays as it is: it may be the global value
      for (let place = 0; place < gradient.length; place++) {
        const slope = gradient[place];
        mean[place] = fround(fround(BETA1) * mean[place]) + fround(fround(1 - BETA1) * slope);
        square[place] = fround(fround(BETA2) * square[place]) + fround(fround(fround(1 - BETA2) * slope) * slope);
        const denominator = fround(fround(fround(Math.sqrt(square[place])) / rootCorrection) + fround(EPSILON));
        values[place] = fround(values[place] * shrink) - fround(fround(pace * mean[place]) / denominator);
      }
      means.set(name, mean);
      squares.set(name, square);
      parameters.set(name, values);
    }
  }
}

/** The optimizer of a task's settings; `state` goes on with an earlier one's. */
export function makeOptimizer(settings, state) {
  return settings.optimizer === "sgd" ? new Sgd(settings.weight_decay, state) : new AdamW(settings.weight_decay, state);
}

/** L2 norm over several tensors together. */
export function globalNorm(tensors) {
  let sum = 0;
  for (const tensor of tensors) for (const value of tensor) sum += value * value;
  return Math.sqrt(sum);
}

/** Scale all gradients, in place, so that their common norm is at most `limit`. */
export function clipByGlobalNorm(gradients, limit) {
  const factor = fround(Math.min(1, limit / (globalNorm(gradients.values()) + 1e-6)));
  for (const gradient of gradients.values()) gradient.forEach((value, place) => (gradient[place] = value * factor));
}

/** Learning rate of the 0-based `step` of `steps`: constant, or falling in a line that reaches zero at `steps`. */
export function scheduled(rate, schedule, step, steps) {
  return schedule === "linear" ? rate * (1 - step / steps) : rate;
}
