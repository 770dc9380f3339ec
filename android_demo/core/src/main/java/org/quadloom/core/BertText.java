package org.quadloom.core;

import java.text.Normalizer;
import java.util.ArrayList;
import java.util.List;

/**
 * Text as BERT sees it: cleaned, perhaps without accents and in lower case, cut into words and punctuation marks; equal to
 * {@code BertNormalizer} and {@code BertPreTokenizer} of the package tokenizers.
 *
 * <p>What is a letter, an accent or a mark is Unicode's, in the platform's version of it: of characters that are newer
 * than that version, the words may differ.
 */
final class BertText {
  private final boolean cleansText;
  private final boolean isolatesChinese;
  private final boolean stripsAccents;
  private final boolean lowersCase;

  BertText(boolean cleansText, boolean isolatesChinese, boolean stripsAccents, boolean lowersCase) {
    this.cleansText = cleansText;
    this.isolatesChinese = isolatesChinese;
    this.stripsAccents = stripsAccents;
    this.lowersCase = lowersCase;
  }

  /** The words of a text, each punctuation mark by itself. */
  List<String> words(String text) {
    String normalized = normalized(text);
    List<String> words = new ArrayList<>();
    StringBuilder word = new StringBuilder();
    for (int i = 0; i < normalized.length(); i += Character.charCount(normalized.codePointAt(i))) {
      int letter = normalized.codePointAt(i);
      boolean isMark = isPunctuation(letter);
      if (isMark || isSpace(letter)) {
        endWord(word, words);
      }
      if (isMark) {
        words.add(new String(Character.toChars(letter)));
      } else if (!isSpace(letter)) {
        word.appendCodePoint(letter);
      }
    }
    endWord(word, words);
    return words;
  }

  private static void endWord(StringBuilder word, List<String> words) {
    if (word.length() > 0) {
      words.add(word.toString());
      word.setLength(0);
    }
  }

  private String normalized(String text) {
    String found = cleansText ? cleaned(text) : text;
    if (isolatesChinese) {
      found = withChineseIsolated(found);
    }
    if (stripsAccents) {
      found = withoutAccents(found);
    }
    return lowersCase ? lowered(found) : found;
  }

  private static String cleaned(String text) {
    StringBuilder found = new StringBuilder(text.length());
    for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
      int letter = text.codePointAt(i);
      if (letter != 0 && letter != 0xfffd && !isControl(letter)) {
        found.appendCodePoint(isSpace(letter) ? ' ' : letter);
      }
    }
    return found.toString();
  }

  private static String withChineseIsolated(String text) {
    StringBuilder found = new StringBuilder(text.length());
    for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
      int letter = text.codePointAt(i);
      if (isChinese(letter)) {
        found.append(' ').appendCodePoint(letter).append(' ');
      } else {
        found.appendCodePoint(letter);
      }
    }
    return found.toString();
  }

  private static String withoutAccents(String text) {
    String decomposed = Normalizer.normalize(text, Normalizer.Form.NFD);
    StringBuilder found = new StringBuilder(decomposed.length());
    for (int i = 0; i < decomposed.length(); i += Character.charCount(decomposed.codePointAt(i))) {
      int letter = decomposed.codePointAt(i);
      if (Character.getType(letter) != Character.NON_SPACING_MARK) {
        found.appendCodePoint(letter);
      }
    }
    return found.toString();
  }

  /** Letter by letter: a word's last sigma is none of its own, unlike in String.toLowerCase. */
  private static String lowered(String text) {
    StringBuilder found = new StringBuilder(text.length());
    for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
      int letter = text.codePointAt(i);
      if (letter == 0x130) {
        found.append("i\u0307");
      } else {
        found.appendCodePoint(Character.toLowerCase(letter));
      }
    }
    return found.toString();
  }

  private static boolean isControl(int letter) {
    if (letter == '\t' || letter == '\n' || letter == '\r') {
      return false;
    }
    int type = Character.getType(letter);
    return type == Character.CONTROL
        || type == Character.FORMAT
        || type == Character.SURROGATE
        || type == Character.PRIVATE_USE;
  }

  /** Unicode's White_Space. */
  private static boolean isSpace(int letter) {
    return (letter >= 0x9 && letter <= 0xd)
        || letter == ' '
        || letter == 0x85
        || letter == 0xa0
        || letter == 0x1680
        || (letter >= 0x2000 && letter <= 0x200a)
        || letter == 0x2028
        || letter == 0x2029
        || letter == 0x202f
        || letter == 0x205f
        || letter == 0x3000;
  }

  private static boolean isPunctuation(int letter) {
    if (letter < 128) {
      return letter > ' ' && letter < 127 && !Character.isLetterOrDigit(letter);
    }
    int type = Character.getType(letter);
    return type == Character.CONNECTOR_PUNCTUATION
        || type == Character.DASH_PUNCTUATION
        || type == Character.START_PUNCTUATION
        || type == Character.END_PUNCTUATION
        || type == Character.INITIAL_QUOTE_PUNCTUATION
        || type == Character.FINAL_QUOTE_PUNCTUATION
        || type == Character.OTHER_PUNCTUATION;
  }

  private static boolean isChinese(int letter) {
    return (letter >= 0x4e00 && letter <= 0x9fff)
        || (letter >= 0x3400 && letter <= 0x4dbf)
        || (letter >= 0x20000 && letter <= 0x2a6df)
        || (letter >= 0x2a700 && letter <= 0x2b73f)
        || (letter >= 0x2b740 && letter <= 0x2b81f)
        || (letter >= 0x2b920 && letter <= 0x2ceaf)
        || (letter >= 0xf900 && letter <= 0xfaff)
        || (letter >= 0x2f800 && letter <= 0x2fa1f);
  }
}
