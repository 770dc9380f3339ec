"""Training at a lower rank than that of the graph, exactly: the device's A and B are padded with zeros.

The graph of rank R computes ``W + (alpha / R) B' A'``, a device of rank r wants ``W + (alpha / r) B A``. With A above
zero rows as A', and ``(R / r) B`` beside zero columns as B', the two are equal. By the chain rule the gradient of B is
that of B' times ``R / r``; what belongs to padding is dropped. Optimizer and clipping then see tensors and gradients of
rank r and nothing else, as if the family had been exported at that rank.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from quadloom_runtime.adapter_ranks import A_ENDING, B_ENDING
from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.engines.engine import Batch, FloatArray, StepResult, TrainingEngine


class RankEngine:
    """Lets the graph of `engine` train tensors of rank `rank`.

    Args:
        table: the family's parameter table, at the graph's rank.
        rank: 1 to that of the table.
    """

    def __init__(self, engine: TrainingEngine, table: Sequence[ParameterSpec], rank: int) -> None:
        self._engine = engine
        self._rank = rank
        ranks = {row.name: row.rank for row in table if row.rank is not None}
        self._down = {name: full for name, full in ranks.items() if name.endswith(A_ENDING)}
        self._up = {name: full for name, full in ranks.items() if name.endswith(B_ENDING)}

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        """Forward and backward; `parameters` and gradients are of the device's rank."""
        result = self._engine.step({name: self._padded(name, value) for name, value in parameters.items()}, batch)
        gradients = {name: self._cut(name, value) for name, value in result.gradients.items()}
        return StepResult(result.loss, result.correct, result.examples, gradients)

    def _padded(self, name: str, value: FloatArray) -> FloatArray:
        if name in self._down:
            return np.pad(value, ((0, self._down[name] - self._rank), (0, 0)))
        if name in self._up:
            return np.pad(value * self._factor(name), ((0, 0), (0, self._up[name] - self._rank)))
        return value

    def _cut(self, name: str, gradient: FloatArray) -> FloatArray:
        if name in self._down:
            return gradient[: self._rank]
        if name in self._up:
            return np.ascontiguousarray(gradient[:, : self._rank]) * self._factor(name)
        return gradient

    def _factor(self, name: str) -> np.float32:
        return np.float32(self._up[name] / self._rank)
