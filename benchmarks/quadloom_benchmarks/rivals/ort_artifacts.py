"""onnxruntime-training's own artifacts: `generate_artifacts` of a forward, run by its `Module`.

``python -m quadloom_benchmarks.rivals.ort_artifacts FORWARD OUT`` makes them, in an environment with that package.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from quadloom_benchmarks.rivals.rival import batch_arrays
from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.engines.engine import IGNORED_LABEL, FloatArray, IntArray
from quadloom_runtime.engines.ort_package import require_training_package
from quadloom_runtime.family_folder import load_manifest

ERRORS_ONLY = 3


def make_artifacts(forward: Path, out: Path) -> None:
    """Differentiate a file of `ort_forward` for its adapter, and for the head that trains with it.

    Raises:
        QuadloomError: `onnxruntime` is not the training package.
    """
    require_training_package()
    import onnx
    import onnxruntime
    from onnxruntime.training import artifacts, onnxblock

    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    model = onnx.load(forward)
    _unshare_initializers(model)
    artifacts.generate_artifacts(
        model,
        requires_grad=[each.name for each in model.graph.initializer if _is_trained(each.name)],
        frozen_params=[each.name for each in model.graph.initializer if not _is_trained(each.name)],
        loss=onnxblock.loss.CrossEntropyLoss(ignore_index=IGNORED_LABEL),
        artifact_directory=out,
    )


class OrtArtifactsRival:
    """Artifacts of `make_artifacts` in the package's module.

    Args:
        lean: give every buffer back when it is freed; by default an arena keeps them for the next step.
    """

    def __init__(self, folder: Path, artifacts: Path, *, lean: bool) -> None:
        require_training_package()
        import onnxruntime
        from onnxruntime.training.api import CheckpointState, Module

        onnxruntime.set_default_logger_severity(ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if lean:
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        self._state = CheckpointState.load_checkpoint(str(artifacts / "checkpoint"))
        self._module: Any = Module(str(artifacts / "training_model.onnx"), self._state, session_options=options)
        self._module.train()
        batch = _with_flat_labels(load_manifest(folder))
        self._inputs = [batch[name] for name in self._module.input_names()]

    def step(self) -> None:
        """Forward and backward."""
        self._module.lazy_reset_grad()
        self._module(*self._inputs)

    def gradients(self) -> dict[str, FloatArray]:
        """Gradients of the last step by PEFT's adapter keys."""
        from quadloom_export.model import adapter_key

        return {
            adapter_key(name.removeprefix("model.")): np.array(parameter.grad)
            for name, parameter in self._state.parameters
            if parameter.requires_grad
        }


def _unshare_initializers(model: Any) -> None:
    """The exporter lets equal tensors share one initializer, which the gradient builder then differentiates twice."""
    initializers = {each.name: each for each in model.graph.initializer}
    for node in [each for each in model.graph.node if each.op_type == "Identity" and each.input[0] in initializers]:
        copy = model.graph.initializer.add()
        copy.CopyFrom(initializers[node.input[0]])
        copy.name = node.output[0]
        model.graph.node.remove(node)


def _is_trained(name: str) -> bool:
    """Whether a parameter of a PEFT model trains."""
    return ".lora_" in name or ".modules_to_save." in name


def _with_flat_labels(manifest: FamilyManifest) -> dict[str, IntArray]:
    """A language model's labels are the tokens that follow, in one list."""
    batch = batch_arrays(manifest)
    next_tokens = batch["labels"][:, 1:].ravel() if manifest.task.num_labels is None else batch["labels"]
    return batch | {"labels": next_tokens}


if __name__ == "__main__":
    make_artifacts(Path(sys.argv[1]), Path(sys.argv[2]))
