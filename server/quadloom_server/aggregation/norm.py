"""The size of an update, and scaling it down to a bound: no device moves the model further than it is allowed to."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.engines.engine import FloatArray

CHUNK_VALUES = 1 << 16


def update_norm(tensors: Mapping[str, FloatArray]) -> float:
    """L2 norm over all tensors together, summed in float64 in the order of their names."""
    total = 0.0
    for name in sorted(tensors):
        flat = tensors[name].ravel()
        for start in range(0, flat.size, CHUNK_VALUES):  # no copy of a whole tensor in float64
            total += float(np.square(flat[start : start + CHUNK_VALUES].astype(np.float64)).sum())
    return math.sqrt(total)


def bounded(tensors: Mapping[str, FloatArray], *, largest_norm: float | None) -> dict[str, NDArray[np.float64]]:
    """The update, scaled down to `largest_norm` where it is larger; None for no bound.

    A pure function of the stored update, so the aggregate of a round can be computed again by anyone who has the
    updates.
    """
    factor = 1.0
    if largest_norm is not None and (norm := update_norm(tensors)) > largest_norm:
        factor = largest_norm / norm
    return {name: factor * value.astype(np.float64) for name, value in tensors.items()}
