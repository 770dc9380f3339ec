"""Tokenizer files that are broken or greedy: refused before they cost memory, and never a crash."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.data import Example, encode
from quadloom_runtime.device.family_copy import tokenizer_blob
from quadloom_runtime.errors import QuadloomError

LENGTH = 5
EXAMPLES = [Example("good film with many more words", 0), Example("", 1)]
Fields = dict[str, Any]


@pytest.fixture(scope="module")
def fields() -> Fields:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(max_length=LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    return dict(json.loads(tokenizer.to_str()))


def encoded(path: Path, content: bytes) -> tuple[int, ...]:
    path.write_bytes(content)
    return encode(EXAMPLES, path, sequence_length=LENGTH).input_ids.shape


def test_the_familys_own_tokenizer_passes(tmp_path: Path, fields: Fields) -> None:
    assert encoded(tmp_path / "tokenizer.json", json.dumps(fields).encode()) == (2, LENGTH)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda fields: fields["padding"]["strategy"].update(Fixed=10**9), "does not make rows of 5 tokens"),
        (lambda fields: fields["truncation"].update(max_length=10**9), "does not make rows of 5 tokens"),
        (lambda fields: fields.update(padding=None), "does not make rows of 5 tokens"),
        (lambda fields: fields.update(truncation=None), "does not make rows of 5 tokens"),
        (lambda fields: fields["truncation"].update(stride=LENGTH), "cannot use the tokenizer"),
        (lambda fields: fields["model"].update(unk_token="[NONE]"), "cannot use the tokenizer"),
        (lambda fields: fields["model"].update(type="Unheard-of"), "cannot use the tokenizer"),
        (lambda fields: fields.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}), "cannot use"),
    ],
)
def test_a_tokenizer_that_is_not_the_familys_is_refused(
    tmp_path: Path, fields: Fields, change: Callable[[Fields], object], problem: str
) -> None:
    wrong = json.loads(json.dumps(fields))
    change(wrong)
    with pytest.raises(QuadloomError, match=problem):
        encoded(tmp_path / "tokenizer.json", json.dumps(wrong).encode())


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"null", b"{}", b"PK\x03\x04"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(QuadloomError, match="cannot use the tokenizer"):
        encoded(tmp_path / "tokenizer.json", content)


def test_a_family_without_a_tokenizer_is_refused(family: tuple[Path, FamilyManifest]) -> None:
    (blob,) = family[1].tokenizer
    renamed = blob.model_copy(update={"path": "tokenizer/vocab.txt"})
    with pytest.raises(QuadloomError, match=r"names no tokenizer\.json"):
        tokenizer_blob(family[1].model_copy(update={"tokenizer": (renamed,)}))


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_altered_bytes_give_rows_of_the_right_length_or_a_refusal(
    tmp_path: Path, fields: Fields, data: st.DataObject
) -> None:
    content = bytearray(json.dumps(fields).encode())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        assert encoded(tmp_path / "tokenizer.json", bytes(content)) == (2, LENGTH)
    except QuadloomError:
        return
