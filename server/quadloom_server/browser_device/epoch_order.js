/** In which order the rows of an epoch are trained on: the same as on every other device. */
import { QuadloomError } from "./errors.js";
import { Generator } from "./random.js";

/** Row numbers of one pass over data with these labels, as the training settings ask for it. */
export function epochRows(labels, settings, epoch) {
  return settings.class_balance
    ? balancedOrder(labels, settings.seed, epoch)
    : epochOrder(labels.length, settings.seed, epoch);
}

/** The shuffled order of one epoch. */
export function epochOrder(examples, seed, epoch) {
  return epochRandom(seed, epoch).permutation(Array.from({ length: examples }, (_, row) => row));
}

/**
 * Of any n rows that begin at a multiple of n, one of each of the n classes.
 *
 * Of a class with few examples these come again and again, each as often as the others; of one with many, not all.
 */
export function balancedOrder(labels, seed, epoch) {
  const random = epochRandom(seed, epoch);
  const classes = [...new Set(labels)].sort((left, right) => left - right);
  const turns = Math.ceil(labels.length / classes.length);
  const columns = classes.map((each) => {
    const rows = [...labels.keys()].filter((row) => labels[row] === each);
    return againAndAgain(rows, turns, random);
  });
  const order = [];
  for (let turn = 0; turn < turns; turn++) {
    order.push(...random.permutation(columns.map((column) => column[turn])));
  }
  return order.slice(0, labels.length);
}

function againAndAgain(rows, count, random) {
  const passes = Array.from({ length: Math.ceil(count / rows.length) }, () => random.permutation(rows));
  return passes.flat().slice(0, count);
}

function epochRandom(seed, epoch) {
  if (!Number.isSafeInteger(seed)) {
    throw new QuadloomError(`the seed ${seed} is larger than a browser counts`, "serve with a --seed below 2^53");
  }
  return new Generator([seed, 0, epoch]);
}
