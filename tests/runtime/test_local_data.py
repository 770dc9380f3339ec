import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from quadloom_runtime.data import EncodedData, Example, batches, encode, epoch_order, load_examples
from quadloom_runtime.engines.engine import IGNORED_LABEL
from quadloom_runtime.errors import MissingExtraError, QuadloomError

ROWS = [("a fine, old film", 1), ('dull "and"\nlong', 0), ("größer ☃", 1)]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    return path


def write_parquet(path: Path) -> Path:
    table = pyarrow.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    pyarrow.parquet.write_table(table, path)
    return path


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    expected = [Example(text, label) for text, label in ROWS]
    rows: list[dict[str, object]] = [{"text": text, "label": label} for text, label in ROWS]
    assert load_examples(write_jsonl(tmp_path / "d.jsonl", rows), num_labels=2) == expected
    assert load_examples(write_csv(tmp_path / "d.csv"), num_labels=2) == expected
    assert load_examples(write_parquet(tmp_path / "d.parquet"), num_labels=2) == expected


def test_a_byte_order_mark_is_not_part_of_the_first_field(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\ngood,1\n", encoding="utf-8-sig")
    assert load_examples(tmp_path / "d.csv") == [Example("good", 1)]


def test_fields_can_be_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"sentence": "good", "sentiment": "1", "label": 7}])
    assert load_examples(path, text_field="sentence", label_field="sentiment") == [Example("good", 1)]


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0"])
def test_a_whole_number_is_a_label_however_it_is_written(tmp_path: Path, label: object) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": "x", "label": label}])
    assert load_examples(path, num_labels=2) == [Example("x", 1)]


@pytest.mark.parametrize("label", [-1, 0.5, "good", True, "nan", "inf", [1]])
def test_what_is_no_class_index_is_refused_with_row_and_value(tmp_path: Path, label: object) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": "x", "label": 0}, {"text": "x", "label": label}])
    with pytest.raises(QuadloomError) as caught:
        load_examples(path)
    assert "row 2" in caught.value.cause
    assert repr(label) in caught.value.cause


def test_a_label_out_of_range_is_refused_with_row_value_and_range(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": "x", "label": label} for label in (0, 1, 2)])
    assert len(load_examples(path, num_labels=3)) == 3
    with pytest.raises(QuadloomError, match=r"row 3: label 2 is outside 0\.\.1"):
        load_examples(path, num_labels=2)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("d.jsonl", "", "no examples"),
        ("d.jsonl", "\n\n", "no examples"),
        ("d.csv", "text,label\n", "no examples"),
        ("d.jsonl", '{"text": "x", "label": 0}\n{"text"\n', "line 2 is not JSON"),
        ("d.jsonl", "[1]\n", "line 1 is not an object"),
        ("d.jsonl", '{"sentence": "x", "label": 0}\n', "row 1 has no field 'text'; it has 'sentence', 'label'"),
        ("d.jsonl", '{"text": null, "label": 0}\n', "row 1 has no field 'text'"),
        ("d.jsonl", '{"text": 5, "label": 0}\n', "text is 5"),
        ("d.csv", "text,label\nonly text\n", "row 1 has no field 'label'"),
        ("d.csv", "text\nx,0,1\n", "row 1 has no field 'label'"),
        ("d.txt", "x", "unknown suffix '.txt'"),
        ("d.parquet", "not parquet", "not Parquet"),
    ],
)
def test_bad_files_are_refused_with_the_cause(tmp_path: Path, name: str, content: str, cause: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(QuadloomError) as caught:
        load_examples(tmp_path / name, num_labels=2)
    assert cause in caught.value.cause


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuadloomError, match=r"absent\.jsonl"):
        load_examples(tmp_path / "absent.jsonl")
    (tmp_path / "d.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuadloomError, match="cannot read"):
        load_examples(tmp_path / "d.jsonl")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"quadloom\[parquet\]"):
        load_examples(path)


def test_texts_are_cut_and_filled_to_the_length_in_the_tokenizer_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(max_length=3)
    tokenizer.enable_padding(length=3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = encode(
        [Example("good film", 1), Example("film film good good", 0)], tmp_path / "tokenizer.json", sequence_length=3
    )
    assert data.input_ids.tolist() == [[2, 3, 0], [3, 3, 2]]
    assert data.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert data.labels.tolist() == [1, 0]
    assert {each.dtype for each in (data.input_ids, data.attention_mask, data.token_type_ids, data.labels)} == {
        np.dtype(np.int64)
    }


def test_an_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(QuadloomError, match=r"tokenizer\.json"):
        encode([Example("x", 0)], tmp_path / "tokenizer.json", sequence_length=3)


def numbered(examples: int) -> EncodedData:
    ids = np.arange(examples, dtype=np.int64)[:, None] + np.zeros((1, 3), np.int64)
    return EncodedData(ids, np.ones_like(ids), np.zeros_like(ids), np.arange(examples, dtype=np.int64))


@given(examples=st.integers(1, 40), batch_size=st.integers(1, 9), seed=st.integers(0, 2**63), epoch=st.integers(0, 99))
def test_an_epoch_holds_each_example_once_in_batches_of_one_shape(
    examples: int, batch_size: int, seed: int, epoch: int
) -> None:
    order = epoch_order(examples, seed=seed, epoch=epoch)
    found = list(batches(numbered(examples), batch_size=batch_size, order=order))
    assert all(each.input_ids.shape == (batch_size, 3) and each.labels.shape == (batch_size,) for each in found)
    counted = [row for each in found for row in each.labels if row != IGNORED_LABEL]
    assert sorted(counted) == list(range(examples))
    assert [each.examples for each in found[:-1]] == [batch_size] * (len(found) - 1)
    for each in found:
        rows = each.labels != IGNORED_LABEL
        assert (each.input_ids[rows, 0] == each.labels[rows]).all(), "a label must stay with its text"
        assert (each.attention_mask == 1).all(), "a padding row needs tokens to attend to"


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    again = epoch_order(50, seed=3, epoch=1)
    assert (epoch_order(50, seed=3, epoch=1) == again).all()
    assert (epoch_order(50, seed=3, epoch=2) != again).any()
    assert (epoch_order(50, seed=4, epoch=1) != again).any()


def test_cutting_batches_leaves_the_data_as_it_was() -> None:
    data = numbered(3)
    list(batches(data, batch_size=2))
    assert data.labels.tolist() == [0, 1, 2]
