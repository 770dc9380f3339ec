"""When parameters are judged, and that a run is judged then: at no other time, never twice, also when interrupted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.server.simulation.conftest import SETTINGS, two_groups

from quadloom_runtime.errors import QuadloomError
from quadloom_server.simulation import simulation
from quadloom_server.simulation.evaluation_schedule import AtTimes, EveryRounds, closer_early, equally_spaced
from quadloom_server.simulation.fleet_file import TimeSection
from quadloom_server.simulation.result import Budget
from quadloom_server.simulation.round import play_round

FLEET = two_groups(per_round=3, time=TimeSection(spread=0.2, noise=0.2))


@given(
    durations=st.lists(st.floats(0.1, 5), min_size=1, max_size=20),
    times=st.lists(st.floats(0.1, 40), min_size=1, max_size=8, unique=True).map(sorted),
)
def test_what_stands_at_one_of_the_times_is_judged_and_nothing_else(durations, times):
    schedule = AtTimes(times_s=tuple(times))
    ends = [0.0]
    for each in durations:
        ends.append(ends[-1] + each)
    judged = {
        index
        for index, (from_s, until_s) in enumerate(zip(ends, [*ends[1:], math.inf], strict=True))
        if schedule.judges(index, from_s=from_s, until_s=until_s)
    }
    assert judged == {max(index for index, end in enumerate(ends) if end <= time) for time in times}


def test_by_rounds_time_does_not_matter():
    assert [index for index in range(10) if EveryRounds(rounds=4).judges(index, from_s=9, until_s=9)] == [0, 4, 8]


def test_equal_times_end_with_the_budget_and_leave_the_start_out():
    assert equally_spaced(4, budget_s=10).times_s == (2.5, 5, 7.5, 10)
    assert equally_spaced(3, budget_s=0.7).times_s[-1] == 0.7
    with pytest.raises(QuadloomError, match="--evaluations is 0"):
        equally_spaced(0, budget_s=10)
    with pytest.raises(ValidationError, match="do not rise"):
        AtTimes(times_s=(2.0, 1.0))


def test_times_closer_early_end_with_the_budget_and_lie_the_further_apart_the_later():
    assert closer_early(4, budget_s=8).times_s == pytest.approx((1, 2.8284, 5.1962, 8), abs=1e-4)
    assert closer_early(7, budget_s=0.7).times_s[-1] == 0.7
    with pytest.raises(QuadloomError, match="--evaluations is -1"):
        closer_early(-1, budget_s=10)


class Stopped(Exception):  # noqa: N818 (not an error)
    pass


@pytest.fixture
def run(inputs, tmp_path, opened, monkeypatch):
    """``run(name, stop_after=n)``: 12 rounds or so, judged 6 times; also how many evaluations were made."""
    world, state = opened(FLEET)
    for _ in range(12):
        state = play_round(world, state)
    budget_s = 1.01 * state.facts.now_s
    settings = SETTINGS.model_copy(update={"evaluations": equally_spaced(6, budget_s=budget_s)})

    def play(name, *, stop_after=math.inf):
        rounds, evaluations = [], []

        def watched_world(*arguments):
            found = opened_world(*arguments)
            evaluate = found.evaluate
            object.__setattr__(found, "evaluate", lambda each: evaluations.append(1) or evaluate(each))
            return found

        def stopping_round(*arguments):
            if len(rounds) == stop_after:
                raise Stopped
            rounds.append(1)
            return play_round(*arguments)

        monkeypatch.setattr(simulation, "open_world", watched_world)
        monkeypatch.setattr(simulation, "play_round", stopping_round)
        budget = Budget(virtual_s=budget_s)
        found = simulation.simulate(inputs, FLEET, "full-depth", settings, budget, tmp_path / name)
        return found, len(evaluations)

    opened_world = simulation.open_world
    return play


def test_at_each_time_the_accuracy_is_that_of_the_last_round_that_had_closed(run, opened):
    found, evaluations = run("whole")
    world, state = opened(FLEET)
    states = [state]
    while len(states) < len(found.records):
        states.append(play_round(world, states[-1]))
    times = found.settings.evaluations.times_s
    standing = [max(place for place, each in enumerate(states) if each.facts.now_s <= time) for time in times]
    assert [found.at(time) for time in times] == [world.evaluate(states[place].parameters) for place in standing]
    assert {each.index for each in found.records if each.evaluation is not None} == set(standing)
    assert evaluations == len(set(standing)) < len(found.records)


@pytest.mark.parametrize("stop_after", [3, 4, 5, 9, 10])
def test_stopped_anywhere_and_continued_it_finds_the_same(run, stop_after):
    expected, _ = run("whole")
    with pytest.raises(Stopped):
        run("broken", stop_after=stop_after)
    found, evaluations = run("broken")
    assert found == expected
    assert evaluations < len(found.records)
    assert run("broken") == (expected, 0)


def test_what_was_not_judged_is_not_made_up(run):
    found, _ = run("whole")
    unjudged = next(each for each in found.records if each.evaluation is None)
    with pytest.raises(ValueError, match=f"round {unjudged.index}, which stands"):
        found.at(unjudged.closed_s)
