/**
 * Training at a lower rank than that of the graph, exactly: the device's A and B are padded with zeros.
 *
 * A graph of rank R is given A above zero rows, and `(R / r) B` beside zero columns; gradients are cut alike, that of B
 * times `R / r`. The reasons stand in quadloom_runtime/engines/rank.py.
 */
import { QuadloomError } from "./errors.js";

const A_ENDING = ".lora_A.weight";
const B_ENDING = ".lora_B.weight";

/** Rows of a parameter table as a device of this rank has them, the head's as they are. */
export function rowsAtRank(table, rank) {
  return table.map((row) => {
    if (row.rank === null || row.rank === rank) return row;
    if (!(rank >= 1 && rank < row.rank)) {
      throw new QuadloomError(`${row.name} has rank ${row.rank}, not ${rank}`, `choose a rank from 1 to ${row.rank}`);
    }
    if (row.name.endsWith(A_ENDING)) return { ...row, rank, shape: [rank, ...row.shape.slice(1)] };
    if (row.name.endsWith(B_ENDING)) return { ...row, rank, shape: [...row.shape.slice(0, -1), rank] };
    throw new QuadloomError(
      `${row.name} has a rank and is neither ${A_ENDING} nor ${B_ENDING}`,
      "export the family again",
    );
  });
}

/** Lets the graph of an engine train tensors of a lower rank. */
export class RankEngine {
  /** @param table the family's parameter table, at the graph's rank. */
  constructor(engine, table, rank) {
    this.engine = engine;
    this.rank = rank;
    this.rows = new Map(table.filter((row) => row.rank !== null).map((row) => [row.name, row]));
  }

  /** Forward and backward; parameters and gradients are of the device's rank. */
  async step(parameters, batch) {
    const padded = new Map([...parameters].map(([name, value]) => [name, this.#padded(name, value)]));
    const result = await this.engine.step(padded, batch);
    const gradients = new Map([...result.gradients].map(([name, value]) => [name, this.#cut(name, value)]));
    return { ...result, gradients };
  }

  #padded(name, value) {
    const row = this.rows.get(name);
    if (row === undefined) return value;
    const full = new Float32Array(row.shape[0] * row.shape[1]);
    if (name.endsWith(A_ENDING)) full.set(value);
    else this.#eachOfB(row, (short, long) => (full[long] = value[short] * Math.fround(row.rank / this.rank)));
    return full;
  }

  #cut(name, gradient) {
    const row = this.rows.get(name);
    if (row === undefined) return gradient;
    if (name.endsWith(A_ENDING)) return gradient.slice(0, this.rank * row.shape[1]);
    const short = new Float32Array(row.shape[0] * this.rank);
    this.#eachOfB(row, (place, long) => (short[place] = gradient[long] * Math.fround(row.rank / this.rank)));
    return short;
  }

  /** Where each number of B lies, at the device's rank and at the graph's. */
  #eachOfB(row, visit) {
    for (let output = 0; output < row.shape[0]; output++) {
      for (let column = 0; column < this.rank; column++) visit(output * this.rank + column, output * row.rank + column);
    }
  }
}
