"""The mean over recent rounds: plain at first, then one that forgets, and between what it is over."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quadloom_server.aggregation.recent_mean import recent_mean

VALUES = st.floats(-100, 100, width=32)


def means(rounds: list[Any], window: int) -> list[Any]:
    """After each round, from round 1 on."""
    mean = {"x": np.full_like(rounds[0], np.nan)}  # nothing of what was before round 1 may be left
    found = []
    for number, value in enumerate(rounds, 1):
        mean = recent_mean(mean, {"x": value}, round_index=number, window=window)
        found.append(mean["x"])
    return found


@given(arrays(np.float32, (6, 3), elements=VALUES))
def test_until_the_window_is_full_it_is_the_plain_mean(rounds: Any) -> None:
    for number, found in enumerate(means(list(rounds), 6), 1):
        np.testing.assert_allclose(found, rounds[:number].mean(axis=0, dtype=np.float64), rtol=0, atol=1e-3)


def test_then_each_round_counts_less_by_the_same_factor_with_every_later_one() -> None:
    impulse = [np.float32([float(number == 2)]) for number in range(1, 20)]
    found = np.concatenate(means(impulse, 4))
    assert found[1:4] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(found[4:] / found[3:-1], 3 / 4, rtol=1e-5)


@given(arrays(np.float32, (9, 2), elements=VALUES), st.integers(1, 9))
def test_it_lies_between_the_rounds(rounds: Any, window: int) -> None:
    for number, found in enumerate(means(list(rounds), window), 1):
        assert (found >= rounds[:number].min(axis=0) - 1e-3).all()
        assert (found <= rounds[:number].max(axis=0) + 1e-3).all()


@given(arrays(np.float32, (4, 2), elements=VALUES))
def test_over_one_round_it_is_that_round_bit_by_bit(rounds: Any) -> None:
    np.testing.assert_array_equal(means(list(rounds), 1), rounds)
