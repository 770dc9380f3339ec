"""What an update counts: unbiased over rounds that a device sits out, and over the steps that it makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_server.aggregation.running_mean import RunningMean, apply, fold
from quadloom_server.aggregation.weighting import (
    MOST_MISSED_ROUNDS,
    Contribution,
    by_examples,
    by_missed_rounds,
    by_steps,
)


def contribution(*, examples: int = 10, held: int = 10, steps: int = 8, missed_rounds: int = 0) -> Contribution:
    return Contribution(examples=examples, held=held, steps=steps, missed_rounds=missed_rounds)


@given(took_part=st.lists(st.booleans(), max_size=40))
def test_a_device_counts_as_often_as_it_was_asked_however_often_it_got_work(took_part: list[bool]) -> None:
    """Up to its last update, and except for rounds beyond the bound."""
    counted = missed = beyond = 0
    asked = 0
    for number, trains in enumerate(took_part, 1):
        if not trains:
            missed += 1
            continue
        (share,) = by_missed_rounds([contribution(examples=1, missed_rounds=missed)])
        counted += share.weight
        beyond += max(0, missed - MOST_MISSED_ROUNDS)
        missed, asked = 0, number
    assert counted == asked - beyond


def test_a_slow_group_that_trains_every_fourth_round_pulls_as_much_as_one_that_always_does() -> None:
    pulls = {}
    for weighting in (by_examples, by_missed_rounds):
        often = sum(weighting([contribution()])[0].weight for _ in range(3))
        last, seldom = (each.weight for each in weighting([contribution(), contribution(missed_rounds=3)]))
        pulls[weighting] = (often + last, seldom)
    assert pulls[by_missed_rounds] == (40, 40)
    assert pulls[by_examples] == (40, 10)


@given(
    steps=st.lists(st.integers(1, 64), min_size=1, max_size=8),
    held=st.integers(1, 100),
    change=st.floats(-1, 1, allow_nan=False),
)
def test_devices_that_move_alike_with_every_step_move_the_model_by_the_mean_number_of_steps(
    steps: list[int], held: int, change: float
) -> None:
    shares = by_steps([contribution(held=held, steps=each) for each in steps])
    sums = RunningMean()
    for each, share in zip(steps, shares, strict=True):
        sums = fold(sums, {"w": np.array([share.reach * each * change])}, examples=share.weight)
    moved = apply({"w": np.zeros(1, np.float32)}, sums)["w"]
    assert moved == pytest.approx(np.mean(steps) * change, rel=1e-5, abs=1e-6)


def test_with_normalized_steps_two_opposed_devices_cancel_whoever_makes_more_steps() -> None:
    few, many = contribution(steps=2, examples=16, held=100), contribution(steps=16, examples=100, held=100)
    pulls = {}
    for weighting in (by_examples, by_steps):
        shares = weighting([few, many])
        theirs, ours = (share.weight * share.reach for share in shares)
        pulls[weighting] = theirs * few.steps - ours * many.steps
    assert pulls[by_steps] == pytest.approx(0)
    assert pulls[by_examples] < 0
