"""A tiny real family and separable text, so that whole fleets run in seconds."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it: tests never leave the machine

import pytest
from tests.tiny_bert import save_tiny_bert

WORDS = ("good", "great", "fine", "bad", "awful", "poor", "film", "plot", "scene", "actor")


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of a random two-layer BERT with members (0, 0), (1, 0) and (1, 1), in ONNX and ExecuTorch."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from quadloom_export.family import export_family
    from quadloom_export.settings import FamilySettings

    folder = tmp_path_factory.mktemp("family")
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder / "model")
    save_tiny_bert(folder / "model", vocabulary=len(vocabulary))
    settings = FamilySettings(
        depths=(0, 1), rank=4, alpha=8.0, batch_size=8, sequence_length=8, formats=("onnx", "executorch")
    )
    export_family(str(folder / "model"), folder / "family", settings)
    return folder / "family"


def write_examples(path: Path, rows: list[tuple[str, int]]) -> Path:
    """JSONL as `quadloom emulate` reads it."""
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


@pytest.fixture(scope="session")
def separable_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and eval.jsonl, where one word tells the label."""
    folder = tmp_path_factory.mktemp("text")
    rows = [
        (f"{neutral} {telling} {other}", label)
        for label, tellings in ((1, WORDS[:3]), (0, WORDS[3:6]))
        for telling in tellings
        for neutral in WORDS[6:]
        for other in WORDS[6:]
    ]
    write_examples(folder / "train.jsonl", [row for index, row in enumerate(rows) if index % 4])
    write_examples(folder / "eval.jsonl", rows[::4])
    return folder


@pytest.fixture(scope="session")
def tiny_language_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of a random two-layer Llama that knows the same words, with members (1, 0) and (1, 1)."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from quadloom_export.family import export_family
    from quadloom_export.settings import FamilySettings

    folder = tmp_path_factory.mktemp("language-family")
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder / "model"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        tie_word_embeddings=True,
        initializer_range=0.2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    settings = FamilySettings(
        task="causal-lm", target_modules=("all-linear",), depths=(1,), rank=4, batch_size=8, sequence_length=6
    )
    export_family(str(folder / "model"), folder / "family", settings)
    return folder / "family"


@pytest.fixture(scope="session")
def recurring_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and eval.jsonl without labels; each word but the first follows from the one before."""
    folder = tmp_path_factory.mktemp("recurring")
    rows = [[WORDS[(start + further) % len(WORDS)] for further in range(3 + start % 3)] for start in range(len(WORDS))]
    for name, repeats in (("train.jsonl", 12), ("eval.jsonl", 1)):
        lines = [json.dumps({"text": " ".join(row)}) + "\n" for row in rows * repeats]
        (folder / name).write_text("".join(lines))
    return folder
