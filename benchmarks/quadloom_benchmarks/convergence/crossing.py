"""When a noisy curve reaches a target: the crossing of its isotonic regression.

The first evaluation above a target favours methods whose accuracy jumps: one lucky evaluation counts as reached,
however low the next ones are, and the more evaluations, the luckier. Held-out accuracy rises as long as training helps,
so the curve is fitted by the non-decreasing function that is nearest in squares (isotonic regression, by pool adjacent
violators: Ayer et al. 1955, Annals of Mathematical Statistics 26, 641). A spike is averaged with the dip behind it,
there is no width or threshold to choose, and the same rule holds for every method. Between two evaluations the fit is
interpolated linearly.
"""

import math
from collections.abc import Sequence


def isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing values that are nearest in squares, one for each."""
    pools: list[tuple[float, int]] = []  # mean, how many
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] >= mean:
            earlier_mean, earlier_size = pools.pop()
            mean = (earlier_mean * earlier_size + mean * size) / (earlier_size + size)
            size += earlier_size
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]


def crossing_s(times_s: Sequence[float], values: Sequence[float], target: float) -> float:
    """When the isotonic fit reaches `target`: the first time if it begins there, infinite if it never does.

    Args:
        times_s: rising, one per value.
    """
    fit = isotonic(values)
    place = next((place for place, value in enumerate(fit) if value >= target), None)
    if place is None:
        return math.inf
    if place == 0:
        return times_s[0]
    share = (target - fit[place - 1]) / (fit[place] - fit[place - 1])
    return times_s[place - 1] + share * (times_s[place] - times_s[place - 1])
