"""The weighted mean of updates, tensor by tensor, one update at a time.

For tensor t with updates u_k of the devices k that trained it, each resting on n_k examples:

    new(t) = old(t) + sum_k n_k u_k(t) / sum_k n_k

The weights are normalised per tensor over its own contributors, so a layer that few devices can hold is not diluted by
those that do not train it; a tensor that nobody trained keeps its value. So it is entry by entry where devices train
parts of a tensor, as those of a lower rank do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.engines.engine import FloatArray

NOBODY: Final = np.zeros(())
WHOLE: Final = np.ones((), dtype=np.bool_)
EVERY_WHOLE: Final[Mapping[str, NDArray[np.bool_]]] = {}


@dataclass(frozen=True)
class RunningMean:
    """What has been summed so far; its size depends on the tensors, not on the number of updates.

    Attributes:
        sums: sum of n_k u_k per tensor, in float64 so that the order of arrival does not show in a float32 result.
        examples: sum of n_k per tensor, float64 of no dimension, or per entry in a shape that broadcasts to its own.
    """

    sums: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    examples: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def fold(
    state: RunningMean,
    update: Mapping[str, NDArray[np.floating]],
    *,
    examples: float,
    parts: Mapping[str, NDArray[np.bool_]] = EVERY_WHOLE,
) -> RunningMean:
    """Add one update.

    Args:
        state: the sums so far, left as they are.
        update: change of each tensor that the device trained; 0 where it did not train an entry.
        examples: number of examples it rests on, above 0; a fraction where staleness makes them count for less.
        parts: which entries of a tensor it trained, in a shape that broadcasts to the tensor's; all of other tensors.
    """
    weighted = {name: value.astype(np.float64) * examples for name, value in update.items()}
    sums = {name: state.sums[name] + value if name in state.sums else value for name, value in weighted.items()}
    counts = {name: state.examples.get(name, NOBODY) + examples * parts.get(name, WHOLE) for name in update}
    return RunningMean({**state.sums, **sums}, {**state.examples, **counts})


def mean(state: RunningMean, name: str) -> NDArray[np.float64] | None:
    """The mean of one tensor, 0 where nobody contributed to an entry; None if nobody contributed at all."""
    if name not in state.sums:
        return None
    sums, examples = state.sums[name], state.examples[name]
    found: NDArray[np.float64] = np.divide(sums, examples, out=np.zeros_like(sums), where=examples > 0)
    return found


def apply(parameters: Mapping[str, FloatArray], state: RunningMean) -> dict[str, FloatArray]:
    """The new global parameters: every tensor of `parameters`, moved by the mean of its updates, float32."""
    found = {}
    for name, value in parameters.items():
        change = mean(state, name)
        found[name] = value if change is None else (value + change).astype(np.float32)
    return found
