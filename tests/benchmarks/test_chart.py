"""The chart of memory against step time."""

import pytest
from tests.benchmarks.test_frontier import MEASURED

from quadloom_benchmarks.chart import draw_chart


def test_the_same_figures_draw_the_same_file_with_a_curve_per_method(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw_chart(MEASURED, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    assert "<dc:date>" not in drawn
    for text in ("PyTorch", "onnx", "returned", "d02-q02", "batch 4"):
        assert f">{text}</text>" in drawn, text
