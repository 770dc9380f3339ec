"""A device without the executorch package."""

import sys
from pathlib import Path

import pytest

from quadloom_runtime.engines import executorch_method
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine
from quadloom_runtime.errors import MissingExtraError


def test_the_engine_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executorch_method._portable_lib.cache_clear()
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(MissingExtraError, match=r"quadloom\[executorch\]"):
        ExecutorchTrainingEngine(tmp_path / "a.pte", tmp_path / "w.ptd", inputs=(), outputs=(), label="a")
