"""The table of memory and time against what a user would pick instead."""

import json

import pytest

from quadloom_benchmarks import frontier
from quadloom_benchmarks.frontier import Frontier, Row, measure_frontier, table
from quadloom_benchmarks.saved import load_found, save_found
from quadloom_benchmarks.series import Kind, Series
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.errors import QuadloomError

MEASURED = Frontier(
    setting="batch 4",
    rows=(
        Row(method="PyTorch", variant="kept", peak_bytes=400_000_000, seconds=(1.0, 2.0, 1.0)),
        Row(method="PyTorch", variant="returned", peak_bytes=200_000_000, seconds=(2.0, 4.0, 2.0)),
        Row(
            method="onnx",
            variant="d02-q00",
            peak_bytes=100_000_000,
            seconds=(1.5, 3.0, 9.0),
            planned_bytes=99_000_000,
            gradient_error=0.0,
            unquantized=2,
        ),
        Row(
            method="onnx",
            variant="d02-q02",
            peak_bytes=40_000_000,
            seconds=(1.0, 2.0, 1.0),
            planned_bytes=39_000_000,
            gradient_error=0.0042,
            unquantized=2,
        ),
    ),
)


def test_a_row_has_peaks_plan_ratios_and_error():
    lines = [line.split() for line in table(MEASURED).splitlines()]
    assert lines[3][-5:] == ["400.0", "1.00", "2.00", "1.00", "0.50"]
    assert lines[5][-8:] == ["100.0", "99.0", "1.00", "0.25", "0.50", "1.50", "0.75", "0.00"]
    assert lines[6][-8:] == ["40.0", "39.0", "0.40", "0.10", "0.20", "1.00", "0.50", "0.42"]


def test_what_was_measured_can_be_saved_and_read(tmp_path):
    save_found(MEASURED, tmp_path / "new/found.json")
    assert load_found(tmp_path / "new/found.json", Frontier) == MEASURED


@pytest.mark.parametrize("content", ["", "{", json.dumps({"setting": "none"})])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(QuadloomError, match="--json"):
        load_found(tmp_path / "found.json", Frontier)


def test_real_steps_are_measured_and_members_compared_with_the_plain_one(monkeypatch, make_family, tmp_path):
    monkeypatch.setattr(frontier, "rival_contenders", lambda *_, **__: [])
    family = make_family("sequence-classification")
    keys = tuple(MemberKey(depth=2, quantized_layers=count, recompute_percent=3) for count in (0, 2))
    plain = Series(Kind("onnx"), family, keys)
    lean = Series(Kind("onnx"), family, keys, point="recompute 0.4", plain=False)
    parted = Series(Kind("onnx"), family, keys[:1], point="2 x 4", plain=False, accumulation=2)
    found = measure_frontier([lean, plain, parted], rounds=1, work=tmp_path, ort_training_python=None)
    assert [(row.method, row.variant) for row in found.rows[2:]] == [
        ("PyTorch eager + PEFT, 2 x 4", "default malloc"),
        ("PyTorch eager + PEFT, 2 x 4", "buffers returned when freed"),
        ("PyTorch + PEFT, gradient checkpointing, 2 x 4", "default malloc"),
        ("PyTorch + PEFT, gradient checkpointing, 2 x 4", "buffers returned when freed"),
        ("onnx, recompute 0.4", "d02-q00-r03"),
        ("onnx, recompute 0.4", "d02-q02-r03"),
        ("onnx", "d02-q00-r03"),
        ("onnx", "d02-q02-r03"),
        ("onnx, 2 x 4", "d02-q00-r03"),
    ]
    assert [row.unquantized for row in found.rows] == [*[None] * 6, *[8] * 5]
    assert all(row.peak_bytes > 0 and len(row.seconds) == 1 for row in found.rows)
    assert found.rows[9].planned_bytes == family.manifest.members[1].planned_peak_bytes
