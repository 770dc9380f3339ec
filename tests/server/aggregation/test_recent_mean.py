"""The mean over recent rounds, against its weights in closed form, and between what it is over."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quadloom_server.aggregation.recent_mean import recent_mean

VALUES = st.floats(-100, 100, width=32)


def means(rounds: list[Any], share: float) -> list[Any]:
    """After each round, from round 1 on."""
    mean = {"x": np.full_like(rounds[0], np.nan)}  # nothing of what was before round 1 may be left
    found = []
    for number, value in enumerate(rounds, 1):
        mean = recent_mean(mean, {"x": value}, round_index=number, share=share)
        found.append(mean["x"])
    return found


@given(arrays(np.float32, (6, 3), elements=VALUES))
def test_over_all_rounds_it_is_the_plain_mean(rounds: Any) -> None:
    for number, found in enumerate(means(list(rounds), 1.0), 1):
        np.testing.assert_allclose(found, rounds[:number].mean(axis=0, dtype=np.float64), rtol=0, atol=1e-3)


@given(arrays(np.float32, (9, 3), elements=VALUES))
def test_over_half_of_them_a_round_counts_by_how_many_came_before_it(rounds: Any) -> None:
    """``(2 / k) prod_{j > k} (1 - 2 / j) = 2 (k - 1) / (n (n - 1))`` is the weight of round k of n."""
    for n, found in enumerate(means(list(rounds), 0.5)[1:], 2):
        weights = [2 * (k - 1) / (n * (n - 1)) for k in range(1, n + 1)]
        np.testing.assert_allclose(found, np.average(rounds[:n], axis=0, weights=weights), rtol=0, atol=1e-3)


@given(arrays(np.float32, (9, 2), elements=VALUES), st.floats(0, 1))
def test_it_lies_between_the_rounds(rounds: Any, share: float) -> None:
    for number, found in enumerate(means(list(rounds), share), 1):
        assert (found >= rounds[:number].min(axis=0) - 1e-3).all()
        assert (found <= rounds[:number].max(axis=0) + 1e-3).all()


@given(arrays(np.float32, (4, 2), elements=VALUES), st.floats(0, 0.25))
def test_over_one_round_or_less_it_is_that_round_bit_by_bit(rounds: Any, share: float) -> None:
    np.testing.assert_array_equal(means(list(rounds), share), rounds)
