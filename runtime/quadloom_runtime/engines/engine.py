"""What every engine does: a training step or an evaluation, numpy in and numpy out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

IGNORED_LABEL = -100
"""Label of a padding row or token: it adds nothing to loss, counts or gradients."""


@dataclass(frozen=True)
class Batch:
    """One batch of the family's static shape.

    Attributes:
        input_ids, attention_mask: int64, ``(batch_size, sequence_length)``.
        token_type_ids: same shape; used only by graphs that have that input.
        labels: int64, ``(batch_size,)``; for a language model ``(batch_size, sequence_length)``, the tokens themselves,
            each to be predicted from those before it. `IGNORED_LABEL` marks what does not count.
    """

    input_ids: IntArray
    attention_mask: IntArray
    token_type_ids: IntArray
    labels: IntArray

    @property
    def examples(self) -> int:
        """Rows in which something counts."""
        counted = self.labels != IGNORED_LABEL
        return int(counted.reshape(len(counted), -1).any(axis=1).sum())


@dataclass(frozen=True)
class StepResult:
    """Mean loss over the predictions that count, right ones among them, and the gradient per trained tensor.

    Attributes:
        examples: number of those predictions: rows of a classifier's batch, tokens of a language model's.
    """

    loss: float
    correct: int
    examples: int
    gradients: dict[str, FloatArray]


@dataclass(frozen=True)
class EvaluationResult:
    """Mean loss over the predictions that count, and right ones among them, as in `StepResult`.

    Attributes:
        logits: ``(batch_size, num_labels)`` of a classifier; None for a language model.
    """

    loss: float
    correct: int
    examples: int
    logits: FloatArray | None


class TrainingEngine(Protocol):
    """Runs one training graph. `parameters` holds every row of the parameter table, trained or not, float32."""

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        """Forward and backward.

        Raises:
            StepOutOfMemoryError: the step did not fit the memory limit; the engine stays usable.
        """
        ...


class EvaluationEngine(Protocol):
    """Runs the evaluation graph. `parameters` holds every row of the parameter table, float32."""

    def evaluate(self, parameters: Mapping[str, FloatArray], batch: Batch) -> EvaluationResult:
        """Forward only."""
        ...
