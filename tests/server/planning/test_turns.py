"""Turns by time: whoever is fast or slow, each kind of device holds its share of the places."""

import heapq
from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quadloom_server.planning.turns import Held, next_kind

LAST_S = 120.0


def held_s(fleet: dict[str, int], work_s: dict[str, float], *, places: int) -> dict[str, float]:
    """Seconds for which each kind holds places, when each is filled at once and there are devices enough."""
    held: dict[str, Held] = defaultdict(Held)
    running: list[tuple[float, str, float]] = []
    total: dict[str, float] = defaultdict(float)
    now_s = 0.0
    while now_s < LAST_S:
        while len(running) < places:
            open_s = {kind: tuple(now_s - since for _, each, since in running if each == kind) for kind in fleet}
            known = {kind: Held(held[kind].works, held[kind].works_s, open_s[kind]) for kind in fleet}
            kind = next_kind(fleet, held=known, fleet=fleet)
            heapq.heappush(running, (now_s + work_s[kind], kind, now_s))
        now_s, kind, since_s = heapq.heappop(running)
        held[kind] = Held(held[kind].works + 1, held[kind].works_s + now_s - since_s)
        total[kind] += min(now_s, LAST_S) - since_s
    for _, kind, since_s in running:
        total[kind] += max(0.0, LAST_S - since_s)
    return total


KINDS = ("slow", "middle", "fast")


@given(
    sizes=st.tuples(*[st.integers(1, 20)] * len(KINDS)),
    times=st.tuples(*[st.floats(0.5, 5)] * len(KINDS)),
    places=st.integers(1, 12),
)
@example(sizes=(12, 16, 12), times=(5, 2, 1), places=8)
@example(sizes=(1, 1, 1), times=(5, 2, 1), places=1)
def test_each_kind_holds_its_share_of_the_time_of_the_places(
    sizes: tuple[int, ...], times: tuple[float, ...], places: int
) -> None:
    fleet, work_s = dict(zip(KINDS, sizes, strict=True)), dict(zip(KINDS, times, strict=True))
    held = held_s(fleet, work_s, places=places)
    whole = sum(held.values())
    for kind, size in fleet.items():
        share = size / sum(sizes)
        # It is filled with whole works: one too many or too few for each place, at most.
        assert held[kind] == pytest.approx(share * whole, abs=places * max(times) + 0.01 * whole)


def test_work_that_has_lasted_longer_than_usual_counts_for_as_long_as_it_has() -> None:
    fleet = {"slow": 1, "fast": 1}
    fast = Held(works=4, works_s=4.0)
    assert next_kind(fleet, held={"slow": Held(open_s=(2.0,)), "fast": fast}, fleet=fleet) == "slow"
    assert next_kind(fleet, held={"slow": Held(open_s=(5.0,)), "fast": fast}, fleet=fleet) == "fast"


def test_before_anything_is_over_places_are_shared_by_number() -> None:
    fleet, held = {"large": 30, "small": 10}, dict[str, Held]()
    for _ in range(8):
        chosen = next_kind(fleet, held=held, fleet=fleet)
        held[chosen] = held.get(chosen, Held()).with_one_more()
    assert {kind: len(each.open_s) for kind, each in held.items()} == {"large": 6, "small": 2}


def test_one_device_that_never_comes_back_counts_for_itself_alone() -> None:
    fleet = {"lost": 10, "others": 10}
    held = {"lost": Held(works=10, works_s=10.0, open_s=(20.0, 0.0)), "others": Held(works=30, works_s=32.0)}
    assert next_kind(fleet, held=held, fleet=fleet) == "lost"
