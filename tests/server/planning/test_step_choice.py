"""Steps as a choice: who would be done early makes more of them, who is slow fewer, and so all train deep."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from tests.server.planning.fleets import Scene, best_end, context, device, physical_family, physical_scenes

from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner, is_due
from quadloom_server.planning.efficient import Candidate, feasible, with_step_shares
from quadloom_server.planning.registry import PLANNERS, STEP_SHARES
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.planning.waiting import waiting

SETTINGS = DeadlineSettings(step_shares=STEP_SHARES)
STEPS = 16
"""Of which every share is a whole number."""


def options(given_context: RoundContext, each: PlannedDevice) -> list[Candidate]:
    members = feasible(given_context, each)
    return [one for member in members for one in with_step_shares(member, STEP_SHARES, steps=STEPS)]


def chosen_by(given_context: RoundContext, each: PlannedDevice, end_s: float) -> tuple[int, float] | None:
    """Depth and share of the steps: deepest first, then most steps."""
    in_time = [(one.depth, one.step_share) for one in options(given_context, each) if one.recurring_s <= end_s]
    return max(in_time, default=None)


def worth(given_context: RoundContext, chosen: Mapping[str, tuple[int, float] | None], end_s: float) -> float:
    """The objective, written down a second time, layer by layer and device by device."""
    examples = {each.name: each.capabilities.examples for each in given_context.devices if each.name in chosen}
    total = 0.0
    for layer in range(given_context.layers):
        on = {
            name: work[1]
            for name, work in chosen.items()
            if work is not None and layer >= given_context.layers - work[0]
        }
        if on:
            coverage = sum(examples[name] for name in on) / sum(examples.values())
            trained = {name: examples[name] * share for name, share in on.items()}
            moved = sum(trained[name] * on[name] for name in on) / sum(trained.values())
            total += given_context.importance[layer] * coverage**0.5 * moved
    return total / end_s


@settings(deadline=None, max_examples=50)
@given(scene=physical_scenes(most=3, percents=(3,)))
def test_no_other_end_of_the_round_is_worth_more(scene: Scene) -> None:
    given_context = replace(scene.context(), steps=STEPS)
    able = [each for each in scene.devices if options(given_context, each)]
    if not able:
        return
    due_s, best = best_end(
        able,
        {each.name: [one.recurring_s for one in options(given_context, each)] for each in able},
        lambda end_s: worth(given_context, {each.name: chosen_by(given_context, each, end_s) for each in able}, end_s),
        due=lambda each: is_due(each, SETTINGS),
    )
    plan = deadline_planner(SETTINGS)(given_context)
    found = {
        each.name: None
        if (work := plan[each.name]).member is None
        else (work.member.depth, (work.steps or STEPS) / STEPS)
        for each in able
    }
    end_s = max(due_s, *(work.expected_s or 0.0 for work in plan.values()))
    assert worth(given_context, found, end_s) == pytest.approx(best, rel=1e-9)


def test_a_slow_device_makes_fewer_steps_trains_as_deep_as_the_others_and_nobody_waits() -> None:
    fleet = [device("slow", 100, slowdown=4), device("fast", 100), device("fast-too", 100)]
    given_context = replace(context(physical_family(4), fleet), steps=STEPS)
    plans = {name: PLANNERS[name](given_context) for name in ("fedquad", "deadline-steps")}
    work = plans["deadline-steps"]["slow"]
    assert work.member is not None
    assert work.member.depth == 4
    assert "with 4 steps" in work.reason
    waits = {name: waiting([each.expected_s or 0.0 for each in plan.values()]).share for name, plan in plans.items()}
    assert waits["deadline-steps"] < 0.1 < waits["fedquad"]


def test_of_a_single_step_nothing_is_left_out() -> None:
    fleet = [device("slow", 100, slowdown=9), device("fast", 100)]
    plan = deadline_planner(SETTINGS)(replace(context(physical_family(2), fleet), steps=1))
    assert {work.steps for work in plan.values()} == {None}
