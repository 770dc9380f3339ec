"""The seam between rounds and the evaluation of the global model."""

import math
from collections.abc import Callable, Mapping

from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError

Evaluator = Callable[[Mapping[str, FloatArray]], Evaluation]
"""Global parameters, every row of the table, to accuracy and loss on held-out data."""


def evaluate_checked(evaluator: Evaluator, parameters: Mapping[str, FloatArray], *, round_number: int) -> Evaluation:
    """Evaluate, and stop when the model has diverged: no later round brings it back.

    Raises:
        QuadloomError: the loss is not finite.
    """
    found = evaluator(parameters)
    if not math.isfinite(found.loss):
        raise QuadloomError(
            f"the global model diverged: its loss after round {round_number} is {found.loss}",
            remedy="begin again in a new state folder with a lower --learning-rate or with --clip-norm",
        )
    return found
