"""Run the backward of a training graph again with other values in place of what the forward saved.

Quantization leaves the forward as it is, so one forward serves every trial, and of the backward only what depends on a
changed tensor runs again.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from quadloom_export.calibration import Calibration
from quadloom_export.graph import GRADIENT_PREFIX, JointGraph, evaluate
from quadloom_runtime.engines.engine import FloatArray


class Replay:
    """One training step on a calibration batch.

    Attributes:
        values: what each node computed.
        gradients: of every trained tensor, by name.
    """

    def __init__(self, joint: JointGraph, calibration: Calibration, *, rows: int | None = None) -> None:
        """Run the step, on the first `rows` examples if that is given."""
        self._joint = joint
        batch = {key: torch.from_numpy(getattr(calibration.batch, key)[:rows]) for key in joint.inputs_of("batch")}
        parameters = {name: torch.from_numpy(value) for name, value in calibration.parameters.items()}
        sources: dict[str, Mapping[str, Tensor]] = {"parameter": parameters, "batch": batch, "frozen": joint.frozen}
        self.values: dict[fx.Node, Any] = {n: sources[n.meta["role"]][n.meta["key"]] for n in joint.inputs}
        _compute(joint.nodes, self.values)
        self.gradients = self._gradients(self.values)

    def gradients_with(self, changes: Mapping[fx.Node, Tensor]) -> dict[str, FloatArray]:
        """The gradients if the backward reads `changes` in place of these nodes' values."""
        changed = set(changes)
        again = []
        for node in self._joint.nodes:
            if node.meta["phase"] == "backward" and not changed.isdisjoint(node.all_input_nodes):
                changed.add(node)
                again.append(node)
        values = {**self.values, **changes}
        _compute(again, values)
        return self._gradients(values)

    def _gradients(self, values: Mapping[fx.Node, Any]) -> dict[str, FloatArray]:
        return {
            name.removeprefix(GRADIENT_PREFIX): values[node].numpy()
            for name, node in self._joint.results.items()
            if name.startswith(GRADIENT_PREFIX)
        }


def _compute(nodes: list[fx.Node], values: dict[fx.Node, Any]) -> None:
    with torch.no_grad():
        for node in nodes:
            values[node] = evaluate(node.target, node.args, node.kwargs, values.__getitem__)
