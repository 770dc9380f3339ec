"""ExecuTorch's training module, the one that its Python package brings, on that package's portable kernels."""

from pathlib import Path
from typing import Any

import torch

from quadloom_benchmarks.rivals.rival import batch_arrays
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.family_folder import load_manifest

METHOD = "forward"


class ExecutorchTrainingRival:
    """A program that `executorch_export` wrote."""

    def __init__(self, folder: Path, program: Path) -> None:
        from executorch.extension.training import _load_for_executorch_for_training

        torch.set_num_threads(1)
        self._module: Any = _load_for_executorch_for_training(str(program))
        self._inputs = tuple(torch.from_numpy(value) for value in batch_arrays(load_manifest(folder)).values())

    def step(self) -> None:
        """Forward and backward."""
        self._module.forward_backward(METHOD, self._inputs)

    def gradients(self) -> dict[str, FloatArray]:
        """Gradients of the last step by PEFT's adapter keys."""
        from quadloom_export.model import adapter_key

        found = self._module.named_gradients()
        return {adapter_key(name.removeprefix("model.")): value.numpy() for name, value in found.items()}
