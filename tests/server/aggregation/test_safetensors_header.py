"""A file that is accepted is read by the safetensors library to the same tensors; everything crooked is refused."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quadloom_server.aggregation.safetensors_header import (
    LARGEST_HEADER_BYTES,
    MalformedSafetensorsError,
    read_header,
    read_tensor,
)

FLOATS = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
ENTRY = json.dumps(FLOATS["a"])
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
MANY_FILES = settings(ONE_FILE, max_examples=400)


def with_header(header: str | bytes, data: bytes = bytes(24), *, length: int | None = None) -> bytes:
    content = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "file"
    path.write_bytes(content)
    header = read_header(path)
    return {name: read_tensor(path, header, name) for name in header.tensors}


@ONE_FILE
@given(
    tensors=st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable()),
        arrays.arrays(
            dtype=st.sampled_from([np.dtype(kind) for kind in ("f4", "f8", "f2", "i8", "i4", "u1", "bool")]),
            shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        min_size=1,  # of no tensors and empty metadata the library makes a header that it cannot read itself
        max_size=5,
    ),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=2),
)
def test_what_the_library_writes_is_read_back_exactly(
    tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    found = read(tmp_path, save(tensors, metadata))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


JUNK = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**63, 2**64, -1, 1.0, None, True, "", "F32", "BF16", [], {}, [[0]], "\ud800"]),
)
ALMOST_AN_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "F64", "U8", "F16", "BF16", "f32"]), JUNK),
        "shape": st.one_of(st.lists(st.integers(-1, 4), max_size=3), st.lists(JUNK, max_size=2), JUNK),
        "data_offsets": st.one_of(st.lists(st.integers(0, 32), min_size=1, max_size=3), st.lists(JUNK, max_size=2)),
    },
    optional={"surprise": JUNK},
)
ALMOST_A_HEADER = st.dictionaries(
    st.sampled_from(["a", "b", "", "__metadata__"]), st.one_of(ALMOST_AN_ENTRY, JUNK), max_size=3
)


def library_reads(content: bytes) -> Mapping[str, Any] | None:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None


@MANY_FILES
@given(header=ALMOST_A_HEADER, data_bytes=st.integers(0, 40), spaces=st.integers(0, 3))
def test_the_library_accepts_every_header_that_is_accepted_here(
    tmp_path: Path, header: dict[str, Any], data_bytes: int, spaces: int
) -> None:
    content = with_header(json.dumps(header) + " " * spaces, bytes(range(data_bytes)))
    try:
        found = read(tmp_path, content)
    except MalformedSafetensorsError:
        return
    by_library = library_reads(content)
    assert by_library is not None, header
    assert {name: value.tobytes() for name, value in by_library.items()} == {
        name: value.tobytes() for name, value in found.items()
    }


@MANY_FILES
@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 3),
    more=st.binary(max_size=2),
)
def test_the_library_accepts_every_damaged_file_that_is_accepted_here(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int, more: bytes
) -> None:
    content = bytearray(save({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 1))}, {"report": "x"}))
    for place, value in flips:
        content[place % len(content)] = value
    damaged = bytes(content[: len(content) - cut]) + more
    try:
        found = read(tmp_path, damaged)
    except MalformedSafetensorsError:
        return
    by_library = library_reads(damaged)
    assert by_library is not None
    assert by_library.keys() == found.keys()


def entry(**changed: Any) -> str:
    return json.dumps({"a": FLOATS["a"] | changed})


TWO = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "too short"),
        (bytes(7), "too short"),
        (with_header(entry(), length=2**63), f"more than {LARGEST_HEADER_BYTES}"),
        (with_header(entry(), length=LARGEST_HEADER_BYTES + 1), f"more than {LARGEST_HEADER_BYTES}"),
        (with_header(entry(), b"", length=500), "says it has 500 bytes, the file has"),
        (with_header("[1]"), "does not begin with"),
        (with_header(" " + entry()), "does not begin with"),
        (with_header("{" + "\x00" * 9), "not UTF-8 JSON"),
        (with_header(b'{"\xff": 1}'), "not UTF-8 JSON"),
        (with_header(entry() + "x"), "not UTF-8 JSON"),
        (with_header('{"\\ud800": ' + ENTRY + "}"), "not UTF-8 JSON"),
        (with_header('{"a": ' + "9" * 5000 + "}"), "not UTF-8 JSON"),
        (with_header('{"a": ' + "[" * 100_000), "nests deeper than 3"),
        (with_header('{"a": {"shape": [[1]]}}'), "nests deeper than 3"),
        (with_header('{"a": ' + ENTRY + ', "a": ' + ENTRY + "}"), "names 'a' twice"),
        (with_header('{"a": {"dtype": "F32", "dtype": "F32"}}'), "names 'dtype' twice"),
        (with_header('{"a": NaN}'), "NaN, where only integers"),
        (with_header(entry(shape=[2.0, 3])), "2.0, where only integers"),
        (with_header(entry(data_offsets=[0, 1e30])), "where only integers"),
        (with_header(entry(surprise=1)), "not described by dtype, shape and data_offsets"),
        (with_header('{"a": 5}'), "not described by"),
        (with_header(entry(dtype="BF16")), "dtype 'BF16'"),
        (with_header(entry(dtype=["F32"])), "has the dtype"),
        (with_header(entry(shape=[-2, -3])), "no valid shape"),
        (with_header(entry(shape=[True, 6])), "no valid shape"),
        (with_header(entry(shape=[2**62, 4, 0])), "no valid shape"),
        (with_header(entry(shape=[1] * 9)), "no valid shape"),
        (with_header(entry(data_offsets=[0])), "no valid data_offsets"),
        (with_header(entry(data_offsets=[-8, 16])), "no valid data_offsets"),
        (with_header(entry(data_offsets=[24, 0])), "takes -24 bytes, its dtype and shape 24"),
        (with_header(entry(data_offsets=[0, 20])), "takes 20 bytes, its dtype and shape 24"),
        (with_header(entry(shape=[2, 4])), "takes 24 bytes, its dtype and shape 32"),
        (with_header(entry(data_offsets=[4, 28]), bytes(28)), "leaves a gap"),
        (with_header(json.dumps({"a": TWO, "b": TWO}), bytes(12)), "overlaps"),
        (with_header(json.dumps({"a": TWO, "b": TWO | {"data_offsets": [8, 20]}}), bytes(20)), "overlaps"),
        (with_header(entry(), bytes(23)), "take 24 bytes, the file has 23"),
        (with_header(entry(), bytes(25)), "take 24 bytes, the file has 25"),
        (with_header('{"__metadata__": 5}', b""), "not a map of texts"),
        (with_header('{"__metadata__": {"a": 5}}', b""), "not a map of texts"),
    ],
)
def test_a_crooked_file_is_refused_with_the_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    with pytest.raises(MalformedSafetensorsError, match=cause):
        read(tmp_path, content)


def test_many_names_of_which_the_last_is_double_are_refused_without_comparing_all_with_all(tmp_path: Path) -> None:
    names = [f'"{number}":1' for number in range(60_000)]
    with pytest.raises(MalformedSafetensorsError, match="names '59999' twice"):
        read(tmp_path, with_header("{" + ",".join([*names, names[-1]]) + "}"))


def test_a_file_that_was_cut_after_its_header_was_checked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = with_header(entry())
    path.write_bytes(content)
    header = read_header(path)
    path.write_bytes(content[:-4])
    with pytest.raises(MalformedSafetensorsError, match="has 5 values on disk, not 6"):
        read_tensor(path, header, "a")
