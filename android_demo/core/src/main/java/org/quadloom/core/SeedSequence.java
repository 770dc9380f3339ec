package org.quadloom.core;

import java.util.ArrayList;
import java.util.List;

/** numpy's SeedSequence: spreads entropy over a pool of four words, and makes as many words of it as are asked for. */
final class SeedSequence {
  private static final int POOL_WORDS = 4;
  private static final int HASH_A = 0x43b0d7e5;
  private static final int HASH_A_FACTOR = 0x931e8875;
  private static final int HASH_B = 0x8b51f9dd;
  private static final int HASH_B_FACTOR = 0x58f38ded;
  private static final int MIX_LEFT = 0xca01f9dd;
  private static final int MIX_RIGHT = 0x4973f715;
  private static final int SHIFT = 16;

  private final int[] pool = new int[POOL_WORDS];
  private int hash = HASH_A;

  /** @param entropy numbers from 0 on, each cut into words of 32 bits, the lowest first */
  SeedSequence(long... entropy) {
    List<Integer> words = new ArrayList<>();
    for (long number : entropy) {
      words.add((int) number);
      if (number >>> 32 != 0) {
        words.add((int) (number >>> 32));
      }
    }
    for (int i = 0; i < POOL_WORDS; i++) {
      pool[i] = hashed(i < words.size() ? words.get(i) : 0);
    }
    for (int source = 0; source < POOL_WORDS; source++) {
      for (int target = 0; target < POOL_WORDS; target++) {
        if (source != target) {
          pool[target] = mixed(pool[target], hashed(pool[source]));
        }
      }
    }
    for (int source = POOL_WORDS; source < words.size(); source++) {
      for (int target = 0; target < POOL_WORDS; target++) {
        pool[target] = mixed(pool[target], hashed(words.get(source)));
      }
    }
  }

  /** Words of 32 bits. */
  int[] words(int count) {
    int[] found = new int[count];
    int constant = HASH_B;
    for (int i = 0; i < count; i++) {
      int word = pool[i % POOL_WORDS] ^ constant;
      constant *= HASH_B_FACTOR;
      word *= constant;
      found[i] = word ^ (word >>> SHIFT);
    }
    return found;
  }

  private int hashed(int word) {
    int found = word ^ hash;
    hash *= HASH_A_FACTOR;
    found *= hash;
    return found ^ (found >>> SHIFT);
  }

  private static int mixed(int x, int y) {
    int found = MIX_LEFT * x - MIX_RIGHT * y;
    return found ^ (found >>> SHIFT);
  }
}
