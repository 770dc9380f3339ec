"""What every way of aggregating heterogeneous LoRA does.

A round: each device gets ``at_rank(parameters, its rank)``, trains some of the tensors, and sends them back; the server
folds what comes in, one update at a time and in any order, and finishes with the next global parameters.

    state = method.begin()
    for update in updates:
        state = method.fold(state, update)
    parameters = method.finish(parameters, state)
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError

State = TypeVar("State")
Parameters = Mapping[str, FloatArray]
"""Tensors by PEFT key, float32."""
PreciseParameters = Mapping[str, NDArray[np.floating[Any]]]
"""The same, float32 or float64."""


@dataclass(frozen=True, kw_only=True)
class TrainedUpdate:
    """What one device made of the adapter that it was given.

    Attributes:
        start: the tensors as it received them, at its rank; those that it trained at least.
        trained: the tensors that it trained, of the same names and shapes as in `start`; in float64 where they are the
            sum of `start` and a small change, of which float32 would lose some.
        weight: training examples, times less than 1 if the update is stale.
    """

    start: Parameters
    trained: PreciseParameters
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise QuadloomError(f"an update has the weight {self.weight}", remedy="weigh by examples, at least 1")

    def change(self, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """Trained minus start, in float64, of those of `names` that were trained."""
        return {
            name: self.trained[name].astype(np.float64) - self.start[name] for name in names if name in self.trained
        }


class Aggregation(Protocol[State]):
    """A way of aggregating. All methods are pure; a state is a value.

    Attributes:
        keeps_basis: whether term i of a pair means the same from round to round. Where it does not, because a singular
            value decomposition has turned the basis, nothing that is kept per entry of A or B, such as the moments of
            an optimizer, holds for the next round.
    """

    @property
    def keeps_basis(self) -> bool:
        """See above."""
        ...

    def begin(self) -> State:
        """The state before the first update."""
        ...

    def fold(self, state: State, update: TrainedUpdate) -> State:
        """The state with one more update; `state` is left as it is."""
        ...

    def finish(self, parameters: Parameters, state: State) -> dict[str, FloatArray]:
        """The next global parameters. A tensor that nobody trained keeps its value.

        Args:
            parameters: the global parameters before, every tensor of the adapter.
            state: all updates of the round.
        """
        ...

    def at_rank(self, parameters: Parameters, rank: int) -> dict[str, FloatArray]:
        """What a device of this rank gets: the head as it is, A ``(rank, inputs)``, B ``(outputs, rank)``.

        Raises:
            WrongRankError: the method has no adapter of this rank.
        """
        ...


class WrongRankError(QuadloomError):
    """A rank that a method cannot give to a device or take from it."""
