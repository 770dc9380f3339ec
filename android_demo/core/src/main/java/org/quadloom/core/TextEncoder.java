package org.quadloom.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Turns a text into a row of token ids of the family's length, as its tokenizer.json says. */
final class TextEncoder {
  private final BertText bertText;
  private final WordPiece wordPiece;
  private final Map<String, Integer> addedTokens;
  private final TokenRow row;

  /** @param addedTokens what is one token wherever it stands in a text, e.g. {@code [SEP]} */
  TextEncoder(BertText bertText, WordPiece wordPiece, Map<String, Integer> addedTokens, TokenRow row) {
    this.bertText = bertText;
    this.wordPiece = wordPiece;
    this.addedTokens = addedTokens;
    this.row = row;
  }

  /** Encode the texts of all examples. */
  EncodedData encode(List<Example> examples) {
    EncodedData data = new EncodedData(examples.size(), row.length);
    for (int i = 0; i < examples.size(); i++) {
      row.fill(ids(examples.get(i).text), data, i);
      data.labels[i] = examples.get(i).label;
    }
    return data;
  }

  private List<Integer> ids(String text) {
    List<Integer> ids = new ArrayList<>();
    int start = 0;
    int place = 0;
    while (place < text.length()) {
      String token = longestAddedTokenAt(text, place);
      if (token == null) {
        place++;
        continue;
      }
      cut(text.substring(start, place), ids);
      ids.add(addedTokens.get(token));
      place += token.length();
      start = place;
    }
    cut(text.substring(start), ids);
    return ids;
  }

  private String longestAddedTokenAt(String text, int place) {
    String longest = null;
    for (String token : addedTokens.keySet()) {
      if (text.startsWith(token, place) && (longest == null || token.length() > longest.length())) {
        longest = token;
      }
    }
    return longest;
  }

  private void cut(String text, List<Integer> ids) {
    for (String word : bertText.words(text)) {
      wordPiece.cut(word, ids);
    }
  }
}
