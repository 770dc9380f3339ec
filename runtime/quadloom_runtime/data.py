"""Local data: text from a file, labelled for a classifier, as batches of the family's static shape."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from quadloom_runtime.contract.manifest import TaskKind
from quadloom_runtime.engines.engine import IGNORED_LABEL, Batch, IntArray
from quadloom_runtime.errors import MissingExtraError, QuadloomError


@dataclass(frozen=True)
class Example:
    """One text; the label is a class index, None where there is none."""

    text: str
    label: int | None


@dataclass(frozen=True)
class EncodedData:
    """Token ids of all examples: int64 ``(examples, sequence_length)``.

    Labels are int64 ``(examples,)``; for a language model ``(examples, sequence_length)``, the tokens themselves.
    """

    input_ids: IntArray
    attention_mask: IntArray
    token_type_ids: IntArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)


def load_examples(
    path: Path, *, num_labels: int | None = None, text_field: str = "text", label_field: str = "label"
) -> list[Example]:
    """Read JSONL (``.jsonl``, ``.json``), CSV with a header, or Parquet.

    Args:
        num_labels: number of classes, and every row must have a label; None when the task is not known yet
            (`check_labels` then comes later) or has no classes.

    Raises:
        QuadloomError: unreadable, empty, a missing field, a text that is none, or a label that is not a class index.
    """
    examples = []
    for number, row in enumerate(_rows(path), 1):
        where = f"{path}, row {number}"
        for field in (text_field,) if num_labels is None else (text_field, label_field):
            if row.get(field) is None:
                raise QuadloomError(
                    f"{where} has no field {field!r}; it has {', '.join(map(repr, row))}",
                    remedy="name the fields with --text-field and --label-field, and fill them in every row",
                )
        text, label = row[text_field], row.get(label_field)
        if not isinstance(text, str):
            raise QuadloomError(f"{where}: {text_field} is {text!r}", remedy="give the text as a string")
        examples.append(Example(text, None if label is None else _label(label, where=where)))
    if not examples:
        raise QuadloomError(f"{path} holds no examples", remedy="give a file with at least one row of text")
    if num_labels is not None:
        check_labels(examples, num_labels=num_labels, source=path)
    return examples


def check_labels(examples: Sequence[Example], *, num_labels: int | None, source: Path) -> None:
    """Check that each label is one of 0..num_labels-1; `source` names the file in the error.

    Args:
        num_labels: None for a task without classes, which takes any text.

    Raises:
        QuadloomError: the first row whose label is not, or that has none.
    """
    if num_labels is None:
        return
    for number, example in enumerate(examples, 1):
        if example.label is None:
            raise QuadloomError(
                f"{source}, row {number} has no label, and the task is to tell {num_labels} classes apart",
                remedy="name its field with --label-field, and fill it in every row",
            )
        if example.label >= num_labels:
            raise QuadloomError(
                f"{source}, row {number}: label {example.label} is outside 0..{num_labels - 1}",
                remedy="number the labels from 0, or export the family with a larger --num-labels",
            )


def encode(
    examples: Sequence[Example],
    tokenizer_path: Path,
    *,
    sequence_length: int,
    task: TaskKind = "sequence-classification",
) -> EncodedData:
    """Tokenize with the family's ``tokenizer.json``, which truncates and pads to the family's sequence length.

    For a language model every token is a label, and texts of fewer than two tokens, after which nothing follows, are
    left out.

    Raises:
        QuadloomError: the tokenizer cannot be read or used, makes rows of another length, or leaves no text.
    """
    remedy = "fetch or export the family again"
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
        # Before any text is encoded: a length of 10^9 would fill the memory.
        lengths = (tokenizer.truncation or {}).get("max_length"), (tokenizer.padding or {}).get("length")
        encoded = [] if lengths != (sequence_length,) * 2 else tokenizer.encode_batch([each.text for each in examples])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception, and its panics are not even that
        raise QuadloomError(f"cannot use the tokenizer {tokenizer_path}: {error}", remedy=remedy) from error
    if {len(each.ids) for each in encoded} != {sequence_length}:
        raise QuadloomError(
            f"the tokenizer {tokenizer_path} does not make rows of {sequence_length} tokens, as the family says",
            remedy=remedy,
        )
    data = EncodedData(
        input_ids=np.asarray([each.ids for each in encoded], dtype=np.int64),
        attention_mask=np.asarray([each.attention_mask for each in encoded], dtype=np.int64),
        token_type_ids=np.asarray([each.type_ids for each in encoded], dtype=np.int64),
        labels=np.asarray([example.label or 0 for example in examples], dtype=np.int64),
    )
    return data if task == "sequence-classification" else _labelled_by_itself(data)


def _labelled_by_itself(data: EncodedData) -> EncodedData:
    """The texts with a token to predict, each token a label but for the padding."""
    kept = data.attention_mask.sum(axis=1) >= 2
    if not kept.any():
        raise QuadloomError(
            f"none of {len(data)} texts has two tokens, so there is no next token to learn",
            remedy="give texts of at least a few words",
        )
    ids, mask = data.input_ids[kept], data.attention_mask[kept]
    return EncodedData(ids, mask, data.token_type_ids[kept], np.where(mask == 1, ids, IGNORED_LABEL))


def batches(data: EncodedData, *, batch_size: int, order: IntArray | None = None) -> Iterator[Batch]:
    """Cut `data`, in the given order, into batches; the last is filled with rows that the loss ignores."""
    rows = np.arange(len(data)) if order is None else order
    for start in range(0, len(rows), batch_size):
        taken = rows[start : start + batch_size]
        # A padding row repeats a real one: an empty row would have no token to attend to.
        filled = np.concatenate([taken, np.repeat(taken[:1], batch_size - len(taken))])
        labels = data.labels[filled]
        labels[len(taken) :] = IGNORED_LABEL
        yield Batch(data.input_ids[filled], data.attention_mask[filled], data.token_type_ids[filled], labels)


def epoch_order(examples: int, *, seed: int, epoch: int) -> IntArray:
    """The shuffled order of one epoch: the same on every machine for the same seed and epoch."""
    return epoch_random(seed=seed, epoch=epoch).permutation(examples).astype(np.int64)


def epoch_random(*, seed: int, epoch: int) -> np.random.Generator:
    """Random numbers of one epoch."""
    # A seed sequence takes no negative numbers; every seed still has an order of its own.
    return np.random.default_rng([abs(seed), int(seed < 0), epoch])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    readers = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise QuadloomError(
            f"{path} has the unknown suffix {path.suffix!r}", remedy="give a .jsonl, .csv or .parquet file"
        )
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QuadloomError(f"cannot read {path}: {error}", remedy="check the path and the file") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise QuadloomError(
                    f"{path}, line {number} is not JSON: {error}", remedy="write one object per line"
                ) from None
            if not isinstance(row, dict):
                raise QuadloomError(f"{path}, line {number} is not an object", remedy="write one object per line")
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError(package="pyarrow", extra="parquet") from None
    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise QuadloomError(f"{path} is not Parquet: {error}", remedy="check the file") from error


def _label(value: Any, *, where: str) -> int:
    """A class index from 1, 1.0 or "1"."""
    try:
        number = float(str(value))
    except ValueError:
        number = -1
    if number < 0 or not number.is_integer():
        raise QuadloomError(
            f"{where}: label {value!r} is not a class index", remedy="number the labels from 0: 0, 1, 2, ..."
        )
    return int(number)
