"""What an update must be before it counts; every refusal names what is wrong."""

import json
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_server.aggregation.validation import (
    LARGEST_CHANGE,
    InvalidUpdateError,
    Update,
    UpdateBounds,
    read_update,
)

EXPECTED = (
    ParameterSpec(name="a", shape=(2, 3), layer=1, rank=2),
    ParameterSpec(name="b", shape=(4,), layer="head", rank=None),
)
Content = Callable[..., bytes]


def parse_update(content: bytes, expected: Sequence[ParameterSpec], **bounds: float) -> Update:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "update"
        path.write_bytes(content)
        return read_update(path, expected, bounds=UpdateBounds(**bounds))  # type: ignore[arg-type]


def tensors(**replaced: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": np.full((2, 3), 0.5, np.float32), "b": np.arange(4, dtype=np.float32)} | replaced


def test_an_honest_update_is_read_back_exactly(update_content: Content) -> None:
    update = parse_update(update_content(tensors(), examples=42), EXPECTED)
    assert update.report.examples == 42
    assert update.tensors.keys() == {"a", "b"}
    for name, value in tensors().items():
        np.testing.assert_array_equal(update.tensors[name], value)


def with_nan() -> np.ndarray:
    value = np.zeros((2, 3), np.float32)
    value[1, 2] = np.nan
    return value


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tensors(c=np.zeros(1, np.float32)), r"not trained by the member, first 'c'"),
        ({"a": tensors()["a"]}, r"1 tensors of the member are missing, first 'b'"),
        (tensors(a=np.zeros((3, 2), np.float32)), r"'a' has shape \[3, 2\], not \[2, 3\]"),
        (tensors(a=np.zeros((2, 3), np.float64)), r"'a' is float64, not float32"),
        (tensors(a=with_nan()), r"'a' holds NaN or infinite"),
        (tensors(a=np.full((2, 3), -np.inf, np.float32)), r"'a' holds NaN or infinite"),
        (tensors(a=np.full((2, 3), -2 * LARGEST_CHANGE, np.float32)), r"'a' changes by 20000"),
    ],
)
def test_wrong_tensors_are_refused(update_content: Content, wrong: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidUpdateError, match=message):
        parse_update(update_content(wrong), EXPECTED)


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"examples": 0}, "greater than or equal to 1"),
        ({"examples": 10**10}, "less than or equal to"),
        ({"train_s": float("nan")}, "train_s|greater than"),
        ({"train_s": float("inf")}, "train_s is inf"),
        ({"loss_last": float("nan")}, "loss_last is nan"),
        ({"surprise": 1}, "not permitted"),
        ({"train_s": -1.0}, "greater than or equal to 0"),
        ({"train_s": 1e9}, "less than or equal to"),
        ({"download_s": -1.0}, "download_s"),
        ({"last_upload_s": 1e300}, "last_upload_s"),
        ({"last_upload_bytes": -1}, "last_upload_bytes"),
        ({"peak_step_bytes": 10**16}, "peak_step_bytes"),
        ({"gradient_norms": [-0.1]}, "greater than or equal to 0"),
        ({"gradient_norms": [1e30]}, "less than or equal to"),
        ({"gradient_norms": [float("nan")]}, "finite"),
        ({"gradient_norms": [0.1, 0.2]}, "norms of 2 layers, the member trains 1"),
        ({"gradient_norms": [[[]]]}, "it nests"),
        ({"schema_version": 2}, "Input should be 1"),
    ],
)
def test_wrong_reports_are_refused(update_content: Content, report: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidUpdateError, match=message):
        parse_update(update_content(tensors(), report=report), EXPECTED)


def test_tensors_without_a_report_are_refused() -> None:
    from safetensors.numpy import save

    with pytest.raises(InvalidUpdateError, match="no 'report' entry"):
        parse_update(save(tensors()), EXPECTED)


def test_a_dtype_that_numpy_lacks_is_refused(update_content: Content) -> None:
    honest = update_content(tensors())
    length = struct.unpack("<Q", honest[:8])[0]
    entries = {
        "__metadata__": json.loads(honest[8 : 8 + length])["__metadata__"],
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [12, 28]},
    }
    header = json.dumps(entries).encode()
    with pytest.raises(InvalidUpdateError, match="'a' has the dtype 'BF16'"):
        parse_update(struct.pack("<Q", len(header)) + header + bytes(28), EXPECTED)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_a_damaged_body_is_refused_or_still_valid_but_never_anything_else(
    update_content: Content, cut: int, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(update_content(tensors()))
    for place, value in flips:
        content[place % len(content)] = value
    damaged = bytes(content[: len(content) - cut])
    try:
        update = parse_update(damaged, EXPECTED)
    except InvalidUpdateError:
        return
    assert {name: value.shape for name, value in update.tensors.items()} == {"a": (2, 3), "b": (4,)}
    assert all(np.isfinite(value).all() for value in update.tensors.values())


def test_a_header_length_beyond_the_body_is_refused() -> None:
    with pytest.raises(InvalidUpdateError):
        parse_update(struct.pack("<Q", 2**63) + b"{}", EXPECTED)
