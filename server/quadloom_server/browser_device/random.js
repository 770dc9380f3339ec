/** Random numbers of one epoch, bit for bit those of `numpy.random.default_rng([...])`: SeedSequence and PCG64. */

const BITS_32 = 0xffffffffn;
const BITS_64 = (1n << 64n) - 1n;
const BITS_128 = (1n << 128n) - 1n;
const PCG_MULTIPLIER = (2549297995355413924n << 64n) + 4865540595714422341n;
const POOL_WORDS = 4;

/** numpy's SeedSequence (after O'Neill's seed_seq): whole numbers in, `count` words of 32 bits out. */
function seedWords(entropy, count) {
  const pool = mixedPool(entropy.flatMap(wordsOf));
  const words = [];
  let hash = 0x8b51f9dd;
  for (let place = 0; place < count; place++) {
    let value = (pool[place % POOL_WORDS] ^ hash) >>> 0;
    hash = Math.imul(hash, 0x58f38ded) >>> 0;
    value = Math.imul(value, hash) >>> 0;
    words.push((value ^ (value >>> 16)) >>> 0);
  }
  return words;
}

function mixedPool(entropy) {
  let hash = 0x43b0d7e5;
  const hashed = (word) => {
    let value = (word ^ hash) >>> 0;
    hash = Math.imul(hash, 0x931e8875) >>> 0;
    value = Math.imul(value, hash) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mixed = (left, right) => {
    const value = (Math.imul(0xca01f9dd, left) - Math.imul(0x4973f715, right)) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const pool = Array.from({ length: POOL_WORDS }, (_, place) => hashed(entropy[place] ?? 0));
  for (let from = 0; from < POOL_WORDS; from++) {
    for (let to = 0; to < POOL_WORDS; to++) {
      if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
    }
  }
  for (const word of entropy.slice(POOL_WORDS)) {
    for (let to = 0; to < POOL_WORDS; to++) pool[to] = mixed(pool[to], hashed(word));
  }
  return pool;
}

function wordsOf(number) {
  if (!Number.isSafeInteger(number) || number < 0) throw new RangeError(`${number} is no seed`);
  const words = [];
  for (let left = BigInt(number); words.length === 0 || left > 0n; left >>= 32n) words.push(Number(left & BITS_32));
  return words;
}

/** PCG64 (O'Neill 2014, XSL-RR 128/64) with the orders that numpy's Generator makes of it. */
export class Generator {
  #state;
  #increment;
  #upperHalf = null;

  /** @param {number[]} entropy whole numbers, not negative. */
  constructor(entropy) {
    const words = seedWords(entropy, 8).map(BigInt);
    const long = (place) => words[2 * place] | (words[2 * place + 1] << 32n);
    this.#increment = ((((long(2) << 64n) | long(3)) << 1n) | 1n) & BITS_128;
    this.#state = this.#increment;
    this.#state = (this.#state + ((long(0) << 64n) | long(1))) & BITS_128;
    this.#advance();
  }

  /** A new array with the values in another order, as `Generator.permutation` orders them. */
  permutation(values) {
    const order = values.slice();
    this.shuffle(order);
    return order;
  }

  /** Change the order of an array in place: Fisher and Yates, from the end. */
  shuffle(values) {
    for (let last = values.length - 1; last > 0; last--) {
      const other = this.#upTo(last);
      [values[last], values[other]] = [values[other], values[last]];
    }
  }

  /** A number from 0 to `largest`, each as likely as the others: bits are drawn until they are small enough. */
  #upTo(largest) {
    const mask = 2 ** (32 - Math.clz32(largest)) - 1;
    for (;;) {
      const drawn = (this.#word32() & mask) >>> 0;
      if (drawn <= largest) return drawn;
    }
  }

  #word32() {
    if (this.#upperHalf !== null) {
      const word = this.#upperHalf;
      this.#upperHalf = null;
      return word;
    }
    const word = this.#word64();
    this.#upperHalf = Number(word >> 32n);
    return Number(word & BITS_32);
  }

  #word64() {
    this.#advance();
    const folded = (this.#state >> 64n) ^ (this.#state & BITS_64);
    const turn = this.#state >> 122n;
    return ((folded >> turn) | (folded << ((64n - turn) & 63n))) & BITS_64;
  }

  #advance() {
    this.#state = (this.#state * PCG_MULTIPLIER + this.#increment) & BITS_128;
  }
}
