"""The size of an update, and scaling it down to a bound: no device moves the model further than it is allowed to."""

import math
from collections.abc import Mapping

import numpy as np

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


def clipped(tensors: Mapping[str, FloatArray], *, norm: float) -> dict[str, FloatArray]:
    """The update scaled down to L2 norm `norm`, unchanged if it is no larger.

    A pure function of the stored update, so the aggregate of a round can be computed again by anyone who has the
    updates.
    """
    found = update_norm(tensors)
    if found <= norm:
        return dict(tensors)
    factor = norm / found
    return {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in tensors.items()}
