package org.quadloom.core;

import java.util.List;
import java.util.Map;

/** Cuts a word into the longest pieces of a vocabulary, from its begin on (Wu et al., arXiv 1609.08144, as in BERT). */
final class WordPiece {
  private final Map<String, Integer> vocabulary;
  private final int unknownId;
  private final String continuation;
  private final int longestWord;

  /**
   * @param continuation stands before a piece that does not begin a word
   * @param longestWord characters of the longest word that is cut; a longer one is unknown
   */
  WordPiece(Map<String, Integer> vocabulary, int unknownId, String continuation, int longestWord) {
    this.vocabulary = vocabulary;
    this.unknownId = unknownId;
    this.continuation = continuation;
    this.longestWord = longestWord;
  }

  /** Append the pieces of a word, or the unknown piece for all of it. */
  void cut(String word, List<Integer> ids) {
    int before = ids.size();
    boolean isTooLong = word.codePointCount(0, word.length()) > longestWord;
    int start = 0;
    while (start < word.length()) {
      int end = isTooLong ? start : endOfLongestPiece(word, start);
      if (end == start) {
        ids.subList(before, ids.size()).clear();
        ids.add(unknownId);
        return;
      }
      ids.add(vocabulary.get(piece(word, start, end)));
      start = end;
    }
  }

  private int endOfLongestPiece(String word, int start) {
    for (int end = word.length(); end > start; end = word.offsetByCodePoints(end, -1)) {
      if (vocabulary.containsKey(piece(word, start, end))) {
        return end;
      }
    }
    return start;
  }

  private String piece(String word, int start, int end) {
    String letters = word.substring(start, end);
    return start == 0 ? letters : continuation + letters;
  }
}
