"""An adapter file is the family's parameter table in float32, or refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from quadloom_runtime.adapter_file import WrongAdapterError, largest_tensors_bytes, read_parameters, tensors_bytes
from quadloom_runtime.contract.manifest import ParameterSpec

TABLE = (
    ParameterSpec(name="a", shape=(2, 3), layer=0, rank=2),
    ParameterSpec(name="b", shape=(4,), layer="head", rank=None),
)
TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def read(path: Path, content: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(content)
    return read_parameters(path, TABLE, remedy="none")


def test_an_adapter_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = read(tmp_path / "adapter", save(TENSORS))
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in TENSORS.items()
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("a"), "'a': absent in the file"),
        (lambda tensors: tensors.update(c=np.ones(1, np.float32)), "'c': .* absent in the table"),
        (lambda tensors: tensors.update(b=np.ones(5, np.float32)), r"float32 \[5\] in the file"),
        (lambda tensors: tensors.update(b=np.ones(4, np.float64)), "float64"),
    ],
)
def test_another_table_is_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], object], problem: str
) -> None:
    tensors = dict(TENSORS)
    change(tensors)
    with pytest.raises(WrongAdapterError, match=problem):
        read(tmp_path / "adapter", save(tensors))


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,4]}}',
        b"[" * 10_000,
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(WrongAdapterError):
        read(tmp_path / "adapter", struct.pack("<Q", len(header)) + header + bytes(8))


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_altered_bytes_give_the_table_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(save(TENSORS))
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    try:
        found = read(tmp_path / "adapter", bytes(content))
    except WrongAdapterError:
        return
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == {
        row.name: (np.float32, row.shape) for row in TABLE
    }


def test_the_size_bound_admits_every_tensor_with_a_long_report() -> None:
    rows = [ParameterSpec(name=f"layer.{n}" * 8, shape=(8, 8), layer=n, rank=8) for n in range(200)]
    content = tensors_bytes({row.name: np.zeros(row.shape, np.float32) for row in rows}, {"report": "." * 60_000})
    assert len(content) <= largest_tensors_bytes(rows) < 2 * len(content)
