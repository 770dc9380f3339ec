"""Places tensors of known lifetime in one arena: best fit, in the best of several orders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPAIRS = 20
"""How often the tensors that lie above the lower bound are placed again, first."""


@dataclass(frozen=True)
class Tenancy:
    """One tensor: alive from position `first` to position `last`, both included."""

    first: int
    last: int
    size_bytes: int


@dataclass(frozen=True)
class Arena:
    """Offset per tensor in the order given, and the size of it all."""

    offsets: tuple[int, ...]
    size_bytes: int


def lower_bound_bytes(tenancies: Sequence[Tenancy]) -> int:
    """The largest sum of bytes alive at one position: no arena is smaller."""
    change = [0] * (2 + max((each.last for each in tenancies), default=0))
    for each in tenancies:
        change[each.first] += each.size_bytes
        change[each.last + 1] -= each.size_bytes
    return int(np.cumsum(change).max())


def plan_arena(tenancies: Sequence[Tenancy]) -> Arena:
    """The smallest arena found; stops at the first that meets the lower bound."""
    bound = lower_bound_bytes(tenancies)
    best = Arena((), 0)
    for order in _orders(tenancies):
        found = best_fit(tenancies, order)
        for _ in range(REPAIRS):
            if not best.offsets or found.size_bytes < best.size_bytes:
                best = found
            if best.size_bytes <= bound:
                return best
            # What did not fit below the bound gets its place before all others.
            above = {i for i in order if found.offsets[i] + tenancies[i].size_bytes > bound}
            order = [*(i for i in order if i in above), *(i for i in order if i not in above)]
            found = best_fit(tenancies, order)
    return best


def best_fit(tenancies: Sequence[Tenancy], order: Sequence[int]) -> Arena:
    """Place tensor after tensor in the smallest gap that is free for its whole life, or above all its neighbours."""
    first, last, size = (
        np.asarray([getattr(each, name) for each in tenancies], dtype=np.int64)
        for name in ("first", "last", "size_bytes")
    )
    offsets = np.zeros(len(tenancies), dtype=np.int64)
    placed = np.zeros(len(tenancies), dtype=bool)
    for index in order:
        neighbours = np.flatnonzero(placed & (first <= last[index]) & (last >= first[index]))
        offsets[index] = _best_gap(offsets[neighbours], size[neighbours], int(size[index]))
        placed[index] = True
    return Arena(tuple(offsets.tolist()), int((offsets + size).max(initial=0)))


def _best_gap(starts: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int) -> int:
    if not len(starts):
        return 0
    by_start = np.argsort(starts)
    starts, ends = starts[by_start], np.maximum.accumulate((starts + sizes)[by_start])
    gap_starts = np.concatenate(([0], ends[:-1]))
    gaps = starts - gap_starts
    fitting = np.flatnonzero(gaps >= wanted)
    return int(gap_starts[fitting[np.argmin(gaps[fitting])]]) if len(fitting) else int(ends[-1])


def _orders(tenancies: Sequence[Tenancy]) -> Iterator[list[int]]:
    def life(i: int) -> int:
        return tenancies[i].last - tenancies[i].first

    def size(i: int) -> int:
        return tenancies[i].size_bytes

    everyone = range(len(tenancies))
    yield sorted(everyone, key=lambda i: (-size(i), -life(i), tenancies[i].first))
    yield sorted(everyone, key=lambda i: (-life(i), -size(i)))
    yield sorted(everyone, key=lambda i: (-life(i) * size(i), i))
    yield sorted(everyone, key=lambda i: (tenancies[i].first, -life(i)))
