"""AdamW by an ExecuTorch method: the optimizer that a device without numpy runs, behind the same interface."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.engines.executorch_method import ExecutorchMethod

METHOD = "adamw"


class ExecutorchAdamW:
    """Replaces values of `parameters` by better ones, as `quadloom_runtime.optimizers.AdamW` does.

    Tensors that share a learning rate are updated together, as one flat vector: tensor after tensor in the order in
    which the gradients come, each in row-major order.

    Args:
        program: a ``.pte`` file with the method ``adamw``; longer vectors than it was made for are refused.

    Attributes:
        state: the same arrays under the same names as `AdamW` keeps, so that either can go on from the other.
    """

    def __init__(self, program: Path, *, weight_decay: float = 0.0) -> None:
        self._call = ExecutorchMethod(program, None, method=METHOD, threads=1, label=METHOD)
        self._weight_decay = weight_decay
        self.state: dict[str, FloatArray] = {}

    def update(
        self, parameters: dict[str, FloatArray], gradients: Mapping[str, FloatArray], rates: Mapping[str, float]
    ) -> None:
        """One step over the tensors that have a gradient; `rates` holds the learning rate per tensor."""
        step = self.state.get("step", np.zeros(1, np.float32)) + np.float32(1)
        self.state["step"] = step
        for rate, group in groupby(gradients, rates.__getitem__):
            names = list(group)
            zeros = {name: np.zeros_like(gradients[name]) for name in names}
            found = self._call(
                [
                    _flat([parameters[name] for name in names]),
                    _flat([gradients[name] for name in names]),
                    _flat([self.state.get(f"{name}/mean", zeros[name]) for name in names]),
                    _flat([self.state.get(f"{name}/square", zeros[name]) for name in names]),
                    step,
                    np.asarray([rate], np.float32),
                    np.asarray([self._weight_decay], np.float32),
                ]
            )
            for target, vector in zip(("", "/mean", "/square"), found, strict=True):
                values = parameters if target == "" else self.state
                values.update({f"{name}{target}": part for name, part in _parts(vector, zeros).items()})


def _flat(tensors: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate([np.asarray(each, np.float32).ravel() for each in tensors])


def _parts(vector: FloatArray, like: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Undo `_flat`: one array of its own per tensor of `like`, in its shape."""
    ends = np.cumsum([each.size for each in like.values()])
    return {
        name: part.reshape(each.shape).copy()
        for (name, each), part in zip(like.items(), np.split(vector, ends[:-1]), strict=True)
    }
