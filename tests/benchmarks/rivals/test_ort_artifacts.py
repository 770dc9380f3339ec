"""onnxruntime-training's own artifacts against our members, in the environment that ort_training/run.sh makes."""

import pytest

from quadloom_benchmarks.rivals.ort_artifacts import OrtArtifactsRival, make_artifacts
from quadloom_benchmarks.rivals.ort_forward import export_forward
from quadloom_runtime.engines.ort_package import has_training_package


@pytest.mark.parametrize("lean", [False, True])
def test_gradients_are_those_of_our_member(family, agrees_with_ours, tmp_path, lean):
    if not has_training_package():
        pytest.skip("onnxruntime is not the training package")
    export_forward(family.folder, family.model, tmp_path / "forward.onnx")
    make_artifacts(tmp_path / "forward.onnx", tmp_path)
    agrees_with_ours(OrtArtifactsRival(family.folder, tmp_path, lean=lean))
