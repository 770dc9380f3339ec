package org.quadloom.core;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads a family's tokenizer.json, if it is BERT's: BertNormalizer, BertPreTokenizer, WordPiece, and BertProcessing or a
 * template. Any other is refused, and so is every option that would give other tokens here than in the package
 * tokenizers.
 */
final class TokenizerFile {
  static final int LARGEST_BYTES = 64 << 20;
  private static final int DEEPEST = 16;
  private static final int MOST_IDS = Integer.MAX_VALUE;
  private final JsonFields root;

  private TokenizerFile(JsonFields root) {
    this.root = root;
  }

  /**
   * @param sequenceLength the family's, which the file must state too
   * @throws QuadloomException it is another tokenizer
   */
  static TextEncoder read(byte[] content, int sequenceLength) throws QuadloomException {
    try {
      JsonFields root = JsonFields.of(Json.parse(content, DEEPEST), "tokenizer");
      return new TokenizerFile(root).encoder(sequenceLength);
    } catch (JsonException error) {
      throw new QuadloomException(
          "the family's tokenizer.json cannot be used on this device: " + error.getMessage(),
          "train a family of a model with BERT's WordPiece tokenizer here");
    }
  }

  private TextEncoder encoder(int sequenceLength) throws JsonException {
    return new TextEncoder(bertText(), wordPiece(), addedTokens(), row(sequenceLength));
  }

  private BertText bertText() throws JsonException {
    JsonFields normalizer = typed("normalizer", "BertNormalizer");
    boolean lowersCase = normalizer.bool("lowercase", true);
    BertText bertText =
        new BertText(
            normalizer.bool("clean_text", true),
            normalizer.bool("handle_chinese_chars", true),
            normalizer.bool("strip_accents", lowersCase),
            lowersCase);
    normalizer.end();
    typed("pre_tokenizer", "BertPreTokenizer").end();
    return bertText;
  }

  private WordPiece wordPiece() throws JsonException {
    JsonFields model = typed("model", "WordPiece");
    JsonFields entries = model.object("vocab");
    Map<String, Integer> vocabulary = new LinkedHashMap<>();
    for (String piece : entries.names()) {
      vocabulary.put(piece, entries.integer(piece, 0, MOST_IDS));
    }
    String unknown = model.string("unk_token");
    if (!vocabulary.containsKey(unknown)) {
      throw model.wrong("unk_token", "in the vocabulary");
    }
    String continuation = model.string("continuing_subword_prefix");
    int longestWord = model.integer("max_input_chars_per_word", 0, MOST_IDS);
    model.end();
    return new WordPiece(vocabulary, vocabulary.get(unknown), continuation, longestWord);
  }

  private Map<String, Integer> addedTokens() throws JsonException {
    Map<String, Integer> found = new LinkedHashMap<>();
    for (JsonFields token : root.objects("added_tokens")) {
      for (String option : new String[] {"single_word", "lstrip", "rstrip", "normalized"}) {
        if (token.bool(option, false)) {
          throw token.wrong(option, "false, the only value that is known here");
        }
      }
      found.put(token.string("content"), token.integer("id", 0, MOST_IDS));
    }
    found.remove("");
    return found;
  }

  private TokenRow row(int sequenceLength) throws JsonException {
    JsonFields truncation = root.object("truncation");
    truncation.integer("max_length", sequenceLength, sequenceLength);
    requireText(truncation, "direction", "Right");
    JsonFields padding = root.object("padding");
    padding.object("strategy").integer("Fixed", sequenceLength, sequenceLength);
    requireText(padding, "direction", "Right");
    List<Integer> before = new ArrayList<>();
    List<Integer> after = new ArrayList<>();
    readSurroundings(before, after);
    if (before.size() + after.size() > sequenceLength) {
      throw root.wrong("post_processor", "one that leaves room in " + sequenceLength + " tokens");
    }
    return new TokenRow(
        sequenceLength,
        ids(before),
        ids(after),
        padding.integer("pad_id", 0, MOST_IDS),
        padding.integer("pad_type_id", 0, MOST_IDS));
  }

  /** What the post-processor puts before and after a text. */
  private void readSurroundings(List<Integer> before, List<Integer> after) throws JsonException {
    if (!root.has("post_processor")) {
      return;
    }
    JsonFields processor = root.object("post_processor");
    if (processor.string("type").equals("BertProcessing")) {
      before.add(tokenId(processor, "cls"));
      after.add(tokenId(processor, "sep"));
      return;
    }
    requireText(processor, "type", "TemplateProcessing");
    JsonFields tokens = processor.object("special_tokens");
    boolean isBefore = true;
    for (JsonFields piece : processor.objects("single")) {
      if (piece.has("Sequence")) {
        piece.object("Sequence").integer("type_id", 0, 0);
        isBefore = false;
        continue;
      }
      JsonFields special = piece.object("SpecialToken");
      special.integer("type_id", 0, 0);
      for (long id : tokens.object(special.string("id")).wholes("ids", 0, MOST_IDS)) {
        (isBefore ? before : after).add((int) id);
      }
    }
  }

  private static int tokenId(JsonFields processor, String name) throws JsonException {
    List<?> pair = processor.array(name);
    if (pair.size() != 2 || !(pair.get(1) instanceof Long)) {
      throw processor.wrong(name, "a token and its id");
    }
    return ((Long) pair.get(1)).intValue();
  }

  private JsonFields typed(String name, String type) throws JsonException {
    JsonFields found = root.object(name);
    requireText(found, "type", type);
    return found;
  }

  private static void requireText(JsonFields fields, String name, String wanted) throws JsonException {
    if (!fields.string(name).equals(wanted)) {
      throw fields.wrong(name, wanted);
    }
  }

  private static int[] ids(List<Integer> found) {
    int[] ids = new int[found.size()];
    for (int i = 0; i < ids.length; i++) {
      ids[i] = found.get(i);
    }
    return ids;
  }
}
