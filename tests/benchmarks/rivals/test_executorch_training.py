"""ExecuTorch's official training path against our members."""

import pytest

from quadloom_benchmarks.rivals.executorch_export import export_program
from quadloom_benchmarks.rivals.executorch_training import ExecutorchTrainingRival


def test_gradients_are_those_of_our_member(family, agrees_with_ours, tmp_path):
    pytest.importorskip("executorch")
    export_program(family.folder, family.model, tmp_path / "training.pte")
    agrees_with_ours(ExecutorchTrainingRival(family.folder, tmp_path / "training.pte"))
