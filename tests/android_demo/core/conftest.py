"""The classes of android_demo/core, and a family with BERT's tokenizer that its devices train."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it: tests never leave the machine

import pytest
from tests.android_demo.core.java_classes import CORE, compile_java
from tests.tiny_bert import save_tiny_bert

WORDS = (
    "good",
    "great",
    "fine",
    "bad",
    "awful",
    "poor",
    "film",
    "plot",
    "scene",
    "act",
    "##or",
    "##s",
    "un",
    "##even",
    "the",
    "!",
)


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compiled classes of the core, for Java 8."""
    if shutil.which("javac") is None:
        pytest.skip("NO ANDROID CORE TEST WAS RUN: javac is not installed (Debian: openjdk-17-jdk-headless)")
    folder = tmp_path_factory.mktemp("classes")
    compile_java(sorted((CORE / "src/main").rglob("*.java")), folder)
    return folder


@pytest.fixture(scope="session")
def device_program(java: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Class path of the device as a program, which needs no JUnit."""
    folder = tmp_path_factory.mktemp("device-program")
    test = CORE / "src/test/java/org/quadloom/core"
    compile_java([test / "DeviceProgram.java", test / "ProcessRuntime.java"], folder, class_path=str(java))
    return f"{java}{os.pathsep}{folder}"


@pytest.fixture(scope="session")
def word_piece_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed ONNX family of a random two-layer BERT, with BERT's own tokenizer and the members (0, 0) and (2, 0)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from quadloom_export.family import export_family
    from quadloom_export.settings import FamilySettings
    from quadloom_runtime.family_signature import write_signature
    from quadloom_runtime.keys import write_public_key

    folder = tmp_path_factory.mktemp("family")
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder / "model")
    save_tiny_bert(folder / "model", vocabulary=len(pieces))
    settings = FamilySettings(depths=(0, 2), quantized=(0,), rank=4, alpha=8.0, batch_size=8, sequence_length=8)
    export_family(str(folder / "model"), folder / "family", settings)
    key = Ed25519PrivateKey.generate()
    write_signature(folder / "family", key)
    write_public_key(folder / "family-key.pem", key.public_key())
    return folder / "family"


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 labelled texts, mostly of one class: the last batch of an epoch is not full, and words are cut into pieces."""
    rows = [
        (f"The {telling} {thing}!", label)
        for label, tellings in ((1, WORDS[:3]), (0, WORDS[3:6]))
        for telling in tellings
        for thing in ("Films", "plot", "scène", "actors", "uneven act", "unknowable", "plot,plot", "act")
    ]
    path = tmp_path_factory.mktemp("reviews") / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows[:45]))
    return path
