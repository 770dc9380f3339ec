"""When a round closes, computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_server.aggregation.staleness import staleness_weight
from quadloom_server.simulation.virtual_clock import (
    SYNCHRONOUS,
    Arrival,
    Closing,
    closing_time_s,
    staleness,
)

ARRIVALS = [Arrival("a", 5, 12.0), Arrival("b", 5, 30.0), Arrival("c", 3, 20.0), Arrival("d", 5, 14.0)]


@pytest.mark.parametrize(
    ("closing", "at_s"),
    [
        (SYNCHRONOUS, 30.0),
        (Closing(updates=1), 30.0),  # nothing may be late
        (Closing(updates=1, largest_staleness=3), 12.0),
        (Closing(updates=2, largest_staleness=3), 14.0),
        (Closing(updates=1, largest_staleness=2), 20.0),  # c started two rounds ago
        (Closing(updates=9, largest_staleness=3), 30.0),
        (Closing(largest_staleness=3), 30.0),
    ],
)
def test_a_round_closes_on_enough_updates_and_not_before_those_that_would_get_too_stale(closing, at_s):
    assert closing_time_s(ARRIVALS, closing, round_index=5) == at_s


def test_a_late_update_weighs_one_over_one_plus_the_root_of_its_staleness():
    assert staleness(ARRIVALS[2], round_index=5) == 2
    assert [staleness_weight(rounds) for rounds in (0, 1, 4, 9)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


@given(
    arrivals=st.lists(st.builds(Arrival, st.just("x"), st.integers(3, 5), st.floats(0, 100)), min_size=1, max_size=8),
    updates=st.integers(1, 9),
    largest=st.integers(0, 3),
)
def test_nobody_who_is_late_already_by_the_most_is_left_behind(arrivals, updates, largest):
    closes = closing_time_s(arrivals, Closing(updates=updates, largest_staleness=largest), round_index=5)
    assert closes in {each.at_s for each in arrivals}
    assert sum(each.at_s <= closes for each in arrivals) >= min(updates, len(arrivals))
    assert all(staleness(each, round_index=6) <= largest for each in arrivals if each.at_s > closes)
