"""Times to a target: by hand, against scikit-learn's isotonic regression, and what must hold of any curve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from quadloom_benchmarks.convergence.crossing import crossing_s, isotonic

accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=15)


@given(accuracies)
def test_the_fit_is_the_isotonic_regression(values):
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values)
    np.testing.assert_allclose(isotonic(values), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "target", "expected_s"),
    [
        ((0.5, 0.7, 0.9), 0.7, 10),  # a point of the curve
        ((0.5, 0.7, 0.9), 0.8, 15),  # half way between two
        ((0.5, 0.6, 0.9), 0.55, 5),  # from the start, which is at 0 s
        ((0.5, 0.6, 0.9), 0.5, 0),  # there before any training
        ((0.5, 0.6, 0.9), 0.95, math.inf),
        ((0.5, 0.9, 0.5, 0.4, 0.9), 0.75, 35),  # a spike counts as what it is together with the dip behind it: 0.6
        ((0.9, 0.5), 0.8, math.inf),  # what was lost was not reached
    ],
)
def test_by_hand(values, target, expected_s):
    times_s = [10.0 * place for place in range(len(values))]
    assert crossing_s(times_s, values, target) == pytest.approx(expected_s)


@given(accuracies, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_target_is_never_reached_sooner(values, first, second):
    times_s = [3.0 * place for place in range(len(values))]
    low, high = sorted((first, second))
    assert crossing_s(times_s, values, low) <= crossing_s(times_s, values, high)


@given(accuracies, st.integers(0, 14), st.floats(0, 1), st.floats(0, 1))
def test_a_better_evaluation_never_makes_it_later(values, place, gain, target):
    times_s = [3.0 * place for place in range(len(values))]
    better = list(values)
    better[place % len(values)] += gain
    assert crossing_s(times_s, better, target) <= crossing_s(times_s, values, target) + 1e-6


@given(accuracies, st.floats(0.01, 1))
def test_it_is_known_only_up_to_the_end_and_reached_if_the_fit_ends_above(values, target):
    times_s = [3.0 * place for place in range(len(values))]
    found = crossing_s(times_s, values, target)
    assert math.isinf(found) == (max(isotonic(values)) < target)
    assert math.isinf(found) or 0 <= found <= times_s[-1]


QUIET_S = np.arange(0, 122, 2.0)
QUIET = 0.8 - 0.3 * np.exp(-QUIET_S / 40)
TARGET = 0.74
TRUE_S = -40 * math.log((0.8 - TARGET) / 0.3)


def first_above_s(values):
    return next((time for time, value in zip(QUIET_S, values, strict=True) if value >= TARGET), QUIET_S[-1])


def test_a_single_spike_hardly_counts():
    spiked = QUIET.copy()
    spiked[5] = 0.79
    assert first_above_s(spiked) == 10
    assert crossing_s(QUIET_S, spiked, TARGET) == pytest.approx(TRUE_S, rel=1e-3)


def test_a_noisy_method_is_not_sooner_there_than_a_quiet_one():
    random = np.random.default_rng(0)
    noisy = [QUIET + random.normal(0, 0.02, len(QUIET)) for _ in range(200)]
    assert np.mean([first_above_s(each) for each in noisy]) < 0.9 * TRUE_S  # what a first crossing would say
    assert np.mean([crossing_s(QUIET_S, each, TARGET) for each in noisy]) == pytest.approx(TRUE_S, rel=0.04)
