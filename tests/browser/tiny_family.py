"""A real family of a tiny BERT: exported like any other, with a WordPiece tokenizer trained on the texts below."""

import json
import os
from contextlib import chdir
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it: tests never leave the machine

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings

LABELS, BATCH_SIZE, SEQUENCE_LENGTH = 2, 8, 24
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OPINIONS = (
    ("a fine warm film", "good story, well told", "funny and moving"),
    ("dull and slow", "bad jokes", "a weak plot"),
)
HARD_TEXTS = (
    "",
    " ",
    "Crème brûlée, naïve coöperation; ÅNGSTRÖM Straße İstanbul ﬁnal ½",
    "日本語とemoji 👩‍👩‍👧‍👦 text, 北京 2024年 한국어 ไทย العربية हिन्दी",
    "tabs\tand\nnewlines\r\n and\u00a0no-break \u200b zero width \ufeff \u0000 control \u0085 \u2028",
    'don\'t... "quote" --- $12.50 (50%) a_b @user #tag http://x.y/?q=1&r=2 C++ `code` ~^|<>=+',
    "[CLS] [SEP] [MASK] [PAD] [UNK] [cls]mid[SEP]dle ##suffix",
    "Supercalifragilisticexpialidocious" * 8,
    "one two three " * 60,
    "e\u0301 combining, \u1e9e sharp S, \u01c5 titlecase, \uff41\uff42\uff43 fullwidth",
    "\U0001d518\U0001d52b\U0001d526 outside the basic plane, \ud7ff\ue000\ufffd",
)


def write_family(folder: Path) -> Path:
    """Export the family into ``folder/family``; returns that folder."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=LABELS,
    )
    model = folder / "tiny-bert"
    BertForSequenceClassification(config).save_pretrained(model)
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(model)
    settings = FamilySettings(num_labels=LABELS, batch_size=BATCH_SIZE, sequence_length=SEQUENCE_LENGTH, rank=4)
    with chdir(folder):  # people read the model's name in the page, and in its picture
        export_family(model.name, folder / "family", settings)
    return folder / "family"


def write_examples(path: Path, *, first: int, examples: int) -> Path:
    """Labelled opinions, numbered on from `first`, so that no two devices have the same text."""
    rows = [
        {"text": f"{OPINIONS[n % 2][n % 3]}, seen {n} times", "label": n % 2} for n in range(first, first + examples)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tiny_tokenizer() -> Tokenizer:
    """The family's tokenizer, without truncation and padding."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    texts = [text for of_label in OPINIONS for text in of_label] + [*HARD_TEXTS, "0 1 2 3 4 5 6 7 8 9 seen times"]
    tokenizer.train_from_iterator(texts, WordPieceTrainer(vocab_size=400, special_tokens=list(SPECIAL)))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer
