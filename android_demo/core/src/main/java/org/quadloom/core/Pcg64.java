package org.quadloom.core;

import java.math.BigInteger;

/**
 * Random numbers as {@code numpy.random.default_rng([...])} makes them: a SeedSequence that seeds PCG64, XSL-RR 128/64.
 *
 * <p>PCG: O'Neill, HMC-CS-2014-0905. The seed sequence follows numpy's {@code bit_generator.pyx}, after O'Neill's
 * {@code seed_seq_fe}. Bounded integers are drawn as its {@code random_interval} does, by masking and rejection; shuffling is
 * Fisher-Yates from the end.
 */
final class Pcg64 {
  private static final BigInteger MASK = BigInteger.ONE.shiftLeft(128).subtract(BigInteger.ONE);
  private static final BigInteger MULTIPLIER = new BigInteger("2360ed051fc65da44385df649fccf645", 16);
  private static final long UINT32 = 0xffffffffL;

  private final BigInteger increment;
  private BigInteger state;
  private boolean hasHalf;
  private int half;

  /** @param entropy numbers from 0 on */
  Pcg64(long... entropy) {
    int[] words = new SeedSequence(entropy).words(8);
    BigInteger start = wide(words, 0);
    increment = wide(words, 4).shiftLeft(1).setBit(0).and(MASK);
    state = BigInteger.ZERO;
    advance();
    state = state.add(start).and(MASK);
    advance();
  }

  /** The numbers 0 to count - 1 in random order. */
  int[] permutation(int count) {
    int[] order = new int[count];
    for (int i = 0; i < count; i++) {
      order[i] = i;
    }
    shuffle(order);
    return order;
  }

  /** Bring the elements into random order. */
  void shuffle(int[] elements) {
    for (int last = elements.length - 1; last > 0; last--) {
      int chosen = (int) upTo(last);
      int kept = elements[last];
      elements[last] = elements[chosen];
      elements[chosen] = kept;
    }
  }

  /** A number from 0 to {@code most}, both included; {@code most} is at least 1 and below 2^31. */
  private long upTo(int most) {
    long mask = 2L * Integer.highestOneBit(most) - 1;
    long found = next32() & mask;
    while (found > most) {
      found = next32() & mask;
    }
    return found;
  }

  private long next32() {
    if (hasHalf) {
      hasHalf = false;
      return half & UINT32;
    }
    long whole = next64();
    hasHalf = true;
    half = (int) (whole >>> 32);
    return whole & UINT32;
  }

  private long next64() {
    advance();
    long high = state.shiftRight(64).longValue();
    return Long.rotateRight(high ^ state.longValue(), (int) (high >>> 58));
  }

  private void advance() {
    state = state.multiply(MULTIPLIER).add(increment).and(MASK);
  }

  /** 128 bits from four words: two 64-bit numbers, the higher one first, each with its lower word first. */
  private static BigInteger wide(int[] words, int first) {
    BigInteger found = BigInteger.ZERO;
    for (int place : new int[] {1, 0, 3, 2}) {
      found = found.shiftLeft(32).or(BigInteger.valueOf(words[first + place] & UINT32));
    }
    return found;
  }
}
