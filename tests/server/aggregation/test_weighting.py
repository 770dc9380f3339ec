"""What an update counts: unbiased over the steps that it makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_server.aggregation.running_mean import RunningMean, apply, fold
from quadloom_server.aggregation.weighting import Contribution, by_examples, by_steps


def contribution(*, examples: int = 10, held: int = 10, steps: int = 8) -> Contribution:
    return Contribution(examples=examples, held=held, steps=steps)


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
