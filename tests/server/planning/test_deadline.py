"""The deadline planner: exact for its objective, and nobody is left out for long."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.planning.fleets import (
    RANK,
    Scene,
    best_end,
    check_legal,
    context,
    device,
    physical_family,
    physical_scenes,
    wild_scenes,
    worth,
)

from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning import deadline as deadline_module
from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner, is_due
from quadloom_server.planning.efficient import Candidate, feasible
from quadloom_server.planning.registry import PLANNERS
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlan


def worth_of(given: RoundContext, choices: Mapping[str, Candidate | None], *, power: float) -> float:
    """What a joint assignment is worth per second: its round ends with the last device.

    `choices` has every device that can train anything, with None where it sits out.
    """
    ends_s = [each.expected_s for each in choices.values() if each is not None]
    if not ends_s:
        return -math.inf
    ranks = {each.name: given.rank_of(each) for each in given.devices}
    chosen = {name: None if each is None else (each.depth, ranks[name]) for name, each in choices.items()}
    return worth(given, chosen, max(ends_s), power=power)


def best_by_brute_force(
    given: RoundContext, options: Mapping[str, Sequence[Candidate | None]], *, power: float
) -> float:
    names = list(options)
    return max(
        worth_of(given, dict(zip(names, chosen, strict=True)), power=power)
        for chosen in itertools.product(*options.values())
    )


def planned(given: RoundContext, plan: RoundPlan) -> dict[str, Candidate | None]:
    found: dict[str, Candidate | None] = {}
    for each in given.devices:
        possible = {one.key: one for one in feasible(given, each)}
        key = plan[each.name].member
        if possible:
            found[each.name] = None if key is None else possible[key]
    return found


@settings(deadline=None, max_examples=50)
@given(scene=wild_scenes(most=3), every=st.integers(1, 4))
def test_the_plan_is_worth_as_much_as_the_best_of_all_joint_assignments(scene: Scene, every: int) -> None:
    given_context = scene.context()
    chosen = DeadlineSettings(included_every_rounds=every)
    options = {
        each.name: [*feasible(given_context, each), *([] if is_due(each, chosen) else [None])]
        for each in scene.devices
        if feasible(given_context, each)
    }
    if not options:
        return
    plan = deadline_planner(chosen)(given_context)
    best = best_by_brute_force(given_context, options, power=0.5)
    assert worth_of(given_context, planned(given_context, plan), power=0.5) == pytest.approx(best, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(scene=physical_scenes(most=3, percents=(3,)))
def test_fedquads_greedy_choice_gains_as_much_per_second_as_the_best_of_all(scene: Scene) -> None:
    given_context = scene.context()
    able = [each for each in scene.devices if feasible(given_context, each)]
    options = {}
    for each in able:
        possible = feasible(given_context, each)
        options[each.name] = [one for one in possible if one.depth > 0] or possible
    if not options or math.prod(map(len, options.values())) > 3000:
        return
    plan = PLANNERS["fedquad"](given_context)
    best = best_by_brute_force(given_context, options, power=1.0)
    assert worth_of(given_context, planned(given_context, plan), power=1.0) == pytest.approx(best, rel=1e-9)


def sixteen_devices(seed: int) -> RoundContext:
    """Of all kinds; together they have some ninety different completion times."""
    random = np.random.default_rng(seed)
    devices = [
        device(
            f"device-{place}",
            float(random.uniform(1, 60)),
            slowdown=float(random.uniform(1, 4)),
            examples=int(random.integers(1, 50)),
            waited=int(random.integers(0, 4)),
            upload_bytes_per_s=(None, 1e4, 1e5)[random.integers(3)],
        )
        for place in range(16)
    ]
    importance = {layer: float(random.uniform(0.1, 10)) for layer in range(4)}
    return context(physical_family(4, percents=(3, 30)), devices, importance=importance)


def best_and_planned_worth(given: RoundContext, plan: RoundPlan) -> tuple[float, float]:
    """Of all ends of the round the largest worth, and that of the plan's."""
    options = {each.name: feasible(given, each) for each in given.devices if feasible(given, each)}
    able = [each for each in given.devices if each.name in options]

    def worth_at(end_s: float) -> float:
        in_time = {name: [one.depth for one in found if one.expected_s <= end_s] for name, found in options.items()}
        return worth(given, {name: (max(depths), RANK) if depths else None for name, depths in in_time.items()}, end_s)

    seconds = {name: [one.expected_s for one in found] for name, found in options.items()}
    _, best = best_end(able, seconds, worth_at, due=lambda each: is_due(each, DeadlineSettings()))
    return best, worth_of(given, planned(given, plan), power=0.5)


@pytest.mark.parametrize("name", [name for name in PLANNERS if name.startswith("deadline")])
def test_where_not_all_ends_are_weighed_the_plan_is_legal_and_whose_turn_it_is_has_work(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(deadline_module, "MOST_DEADLINES", 16)
    for seed in range(5):
        given_context = sixteen_devices(seed)
        plan = PLANNERS[name](given_context)
        check_legal(given_context, plan)
        due = [each for each in given_context.devices if is_due(each, DeadlineSettings())]
        assert all(plan[each.name].member is not None for each in due if feasible(given_context, each))


def test_where_not_all_ends_are_weighed_the_round_is_worth_at_most_a_tenth_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of ninety ends every sixth is weighed: after the best comes one a little later. At worst 5 % are lost here."""
    monkeypatch.setattr(deadline_module, "MOST_DEADLINES", 16)
    lost = []
    for seed in range(20):
        given_context = sixteen_devices(seed)
        best, found = best_and_planned_worth(given_context, PLANNERS["deadline"](given_context))
        lost.append(1 - found / best)
    assert 0 < max(lost) < 0.1
    assert min(lost) > -1e-9


@pytest.mark.parametrize("voters", ["fleet", "others"])
@settings(deadline=None, max_examples=15)
@given(scene=physical_scenes(most=3, percents=(3,)), every=st.integers(1, 5))
def test_over_fifty_rounds_no_device_is_left_out_longer_than_set(voters: str, scene: Scene, every: int) -> None:
    chosen = DeadlineSettings(included_every_rounds=every, voters="others" if voters == "others" else "fleet")
    plan_round = deadline_planner(chosen)
    devices = [replace(each, rounds_since_included=0) for each in scene.devices]
    able = {each.name for each in devices if feasible(scene.context(devices), each)}
    for _ in range(50):
        plan = plan_round(scene.context(devices))
        devices = [
            replace(each, rounds_since_included=0 if plan[each.name].member else each.rounds_since_included + 1)
            for each in devices
        ]
        assert all(each.rounds_since_included < every for each in devices if each.name in able)


def slow_and_fast(*, waited: int = 0) -> list[PlannedDevice]:
    return [device("slow", 100, slowdown=50, waited=waited), device("fast", 100), device("fast-too", 100)]


def test_a_device_that_would_make_all_wait_sits_out_until_its_turn_and_then_all_go_deep() -> None:
    members = physical_family(4)
    plan = PLANNERS["deadline"](context(members, slow_and_fast()))
    assert plan["slow"].member is None
    assert "sits out: takes at least" in plan["slow"].reason
    assert "its turn comes in 3 rounds" in plan["slow"].reason
    plan = PLANNERS["deadline"](context(members, slow_and_fast(waited=3)))
    assert plan["slow"].member is not None
    assert [work.member.stem for name, work in plan.items() if work.member and name != "slow"] == ["d04-q00-r03"] * 2


def test_by_the_others_deadline_a_due_device_trains_its_fastest_member() -> None:
    plan = PLANNERS["deadline-of-others"](context(physical_family(4), slow_and_fast(waited=3)))
    assert plan["slow"].member is not None
    assert plan["slow"].member.depth == 0
    assert "its turn after 3 rounds, so its fastest member" in plan["slow"].reason


def test_alone_a_device_goes_as_deep_as_it_can_by_the_deadline_of_nobody() -> None:
    plan = PLANNERS["deadline-of-others"](context(physical_family(3), [device("only", 100)]))
    assert plan["only"].member is not None
    assert plan["only"].member.stem == "d03-q00-r03"


def test_a_layer_that_matters_more_makes_the_round_long_enough_for_it() -> None:
    """One layer in four matters: the one next to the output, or the one next to the input."""
    depths = []
    for important in (3, 0):
        importance = {layer: 100.0 if layer == important else 0.01 for layer in range(4)}
        plan = PLANNERS["deadline"](context(physical_family(4), [device("a", 100)], importance=importance))
        member = plan["a"].member
        assert member is not None
        depths.append(member.depth)
    assert depths == [1, 4]


def test_where_no_layer_matters_the_round_is_long_enough_for_all() -> None:
    plan = PLANNERS["deadline"](context(physical_family(2), [device("a", 100)], importance={0: 0.0, 1: 0.0}))
    assert plan["a"].member is not None
    assert plan["a"].member.depth == 2


def test_a_recompute_budget_is_chosen_where_it_buys_depth() -> None:
    members = physical_family(2, percents=(3, 60))
    plan = PLANNERS["deadline"](context(members, [device("a", 5)], importance={0: 9.0, 1: 1.0}))
    assert plan["a"].member is not None
    assert (plan["a"].member.depth, plan["a"].member.recompute_percent) == (2, 60)
    theirs = PLANNERS["fedquad"](context(members, [device("a", 5)], importance={0: 9.0, 1: 1.0}))
    assert theirs["a"].member is not None
    assert theirs["a"].member.recompute_percent == 3


@pytest.mark.parametrize(
    ("name", "value"), [("included_every_rounds", 0), ("coverage_power", 0.0), ("coverage_power", 2.0)]
)
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(QuadloomError, match=name):
        DeadlineSettings(**{name: value})  # type: ignore[arg-type]
