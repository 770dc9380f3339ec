/** Texts as rows of token ids of the family's length: truncated and padded as its `tokenizer.json` says. */
import { QuadloomError } from "./errors.js";

const PROBE = "a";

/**
 * Token ids of all texts.
 *
 * @param {string[]} texts
 * @param {object} settings the content of `tokenizer.json`
 * @param {object} tokenizer of @huggingface/tokenizers, made of these settings: it neither truncates nor pads
 * @param {number} length tokens of a row
 * @returns {{length: number, input_ids: BigInt64Array, attention_mask: BigInt64Array, token_type_ids: BigInt64Array}}
 */
export function encode(texts, settings, tokenizer, length) {
  const { padding } = settings;
  check(settings, length);
  const ending = specialTokensAtTheEnd(tokenizer);
  const rows = ["input_ids", "attention_mask", "token_type_ids"];
  const encoded = Object.fromEntries(rows.map((name) => [name, new BigInt64Array(texts.length * length)]));
  encoded.input_ids.fill(BigInt(padding.pad_id));
  encoded.token_type_ids.fill(BigInt(padding.pad_type_id));
  texts.forEach((text, row) => {
    const found = tokenizer.encode(text, { return_token_type_ids: true });
    const types = found.token_type_ids ?? found.ids.map(() => 0);
    truncated(found.ids, length, ending).forEach((id, place) => (encoded.input_ids[row * length + place] = BigInt(id)));
    truncated(types, length, ending).forEach((type, place) => {
      encoded.token_type_ids[row * length + place] = BigInt(type);
      encoded.attention_mask[row * length + place] = 1n;
    });
  });
  return { length: texts.length, ...encoded };
}

function check({ truncation, padding }, length) {
  const fixed = padding?.strategy?.Fixed;
  if (truncation?.max_length !== length || fixed !== length) {
    throw new QuadloomError(`the tokenizer does not make rows of ${length} tokens`, "export the family again");
  }
  if (truncation.direction !== "Right" || padding.direction !== "Right") {
    throw new QuadloomError("the tokenizer truncates or pads on the left", "train this family with `quadloom device`");
  }
}

/** How many special tokens follow a text: they stay when it is cut. */
function specialTokensAtTheEnd(tokenizer) {
  const all = tokenizer.encode(PROBE).ids;
  const own = tokenizer.encode(PROBE, { add_special_tokens: false }).ids;
  return all.length - own.length - all.findIndex((_, place) => own.every((id, offset) => all[place + offset] === id));
}

function truncated(values, length, ending) {
  return values.length <= length
    ? values
    : [...values.slice(0, length - ending), ...values.slice(values.length - ending)];
}
