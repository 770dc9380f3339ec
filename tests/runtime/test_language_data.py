"""Text for a language model: tokens are the labels, and what is short, long or empty finds its place."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from quadloom_runtime.contract.manifest import TaskSpec
from quadloom_runtime.data import Example, batches, check_labels, encode, load_examples
from quadloom_runtime.engines.engine import IGNORED_LABEL, Batch, StepResult
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.trainer import accumulate

WORDS = ("[PAD]", "[UNK]", "good", "film", "dull", "plot")
LENGTH = 4


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(max_length=LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def texts(*words: str) -> list[Example]:
    return [Example(text, None) for text in words]


def test_tokens_are_labels_and_padding_is_none(tokenizer: Path) -> None:
    data = encode(texts("good film", "dull plot good film film"), tokenizer, sequence_length=LENGTH, task="causal-lm")
    assert data.input_ids.tolist() == [[2, 3, 0, 0], [4, 5, 2, 3]]
    assert data.labels.tolist() == [[2, 3, IGNORED_LABEL, IGNORED_LABEL], [4, 5, 2, 3]]
    assert data.labels.dtype == np.int64


def test_a_text_after_whose_first_token_nothing_follows_is_left_out(tokenizer: Path) -> None:
    data = encode(texts("", "good", "good film"), tokenizer, sequence_length=LENGTH, task="causal-lm")
    assert data.input_ids.tolist() == [[2, 3, 0, 0]]
    with pytest.raises(QuadloomError, match="none of 2 texts"):
        encode(texts("", "good"), tokenizer, sequence_length=LENGTH, task="causal-lm")


def test_padding_rows_of_the_last_batch_do_not_count(tokenizer: Path) -> None:
    data = encode(texts("good film", "dull plot", "plot good"), tokenizer, sequence_length=LENGTH, task="causal-lm")
    first, last = batches(data, batch_size=2)
    assert (first.examples, last.examples) == (2, 1)
    assert last.labels.tolist() == [[5, 2, IGNORED_LABEL, IGNORED_LABEL], [IGNORED_LABEL] * LENGTH]


def test_text_without_labels_is_read_and_only_a_classifier_misses_them(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"text": "good film"}) + "\n")
    examples = load_examples(path)
    assert examples == [Example("good film", None)]
    check_labels(examples, num_labels=None, source=path)
    with pytest.raises(QuadloomError, match="row 1 has no label, and the task is to tell 2 classes apart"):
        check_labels(examples, num_labels=2, source=path)


def test_a_step_weighs_batches_by_tokens_and_counts_the_texts() -> None:
    """Two batches of two texts each, of 6 and 2 tokens: their mean gradients 1 and 5 average to 2."""
    ids = np.ones((2, LENGTH), np.int64)
    short = np.where(np.arange(LENGTH) < 2, ids, IGNORED_LABEL)

    class Engine:
        def step(self, parameters: object, batch: Batch) -> StepResult:
            del parameters
            counted = int((batch.labels[:, 1:] != IGNORED_LABEL).sum())
            return StepResult(1.0, 0, counted, {"w": np.full(1, {6: 1.0, 2: 5.0}[counted], np.float32)})

    given = [Batch(ids, np.ones_like(ids), np.zeros_like(ids), labels) for labels in (ids, short)]
    found = accumulate(Engine(), {}, given)
    np.testing.assert_allclose(found.gradients["w"], [2.0])
    assert found.examples == 4


@pytest.mark.parametrize(("kind", "num_labels"), [("causal-lm", 2), ("sequence-classification", None)])
def test_classes_belong_to_a_classification_alone(kind: str, num_labels: int | None) -> None:
    with pytest.raises(ValueError, match=f"num_labels is {num_labels} for the task {kind}"):
        TaskSpec.model_validate({"kind": kind, "num_labels": num_labels})
