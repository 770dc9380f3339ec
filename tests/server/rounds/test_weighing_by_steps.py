"""Where updates count by what their devices hold and per step, no statement of a device buys it more than its share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quadloom_server.aggregation.norm import update_norm
from quadloom_server.store.plans import planned_for
from quadloom_server.store.tables import PlannedAssignment

MakeTask = Callable[..., Any]
STEPS = 50
"""A hundred examples in batches of two."""
FEWER_STEPS = 10
HEAD = "base_model.model.classifier.bias"


def by_steps(make_task: MakeTask, *, other_examples: int = 100, **policy: Any) -> tuple[Any, str, str]:
    """A task of two devices; the planner has chosen fewer steps for the first of them."""
    task = make_task(rounds=2, min_devices=2, min_updates=2, **policy)
    first, other = *task.enrol("first", examples=100), *task.enrol("other", examples=other_examples)
    with task.rounds.turn() as turn:
        planned_of(turn, first).steps = FEWER_STEPS
    return task, first, other


def planned_of(turn: Any, device: str) -> PlannedAssignment:
    planned = planned_for(turn.session, device_id=device, round_number=1)
    assert planned is not None
    return planned


def report(task: Any, device: str, change: float, *, steps: int, examples: int = 10) -> None:
    mine = task.assignment(device)
    content = task.content(mine, change, examples=examples, report={"steps": steps})
    answer = task.report(mine.assignment_id, content)
    assert answer.status == "accepted", answer.reason


def moved(task: Any) -> dict[str, np.ndarray]:
    task.run_background()
    before, after = task.parameters(0), task.parameters(1)
    return {name: after[name] - value for name, value in before.items()}


def test_what_a_device_says_it_holds_counts_up_to_the_bound_on_examples(make_task: MakeTask) -> None:
    task, honest, boasting = by_steps(make_task, other_examples=10**9, max_examples_per_update=100)
    report(task, honest, 0.0, steps=FEWER_STEPS)
    report(task, boasting, 1.0, steps=STEPS)
    # Half of what counts is on each; the mean number of steps is 30.
    np.testing.assert_allclose(moved(task)[HEAD], 0.5 * 30 / STEPS, rtol=1e-5)


@pytest.mark.parametrize("reported_steps", [1, STEPS])
def test_a_device_whose_steps_nobody_planned_counts_by_those_that_its_settings_ask_for(
    make_task: MakeTask, reported_steps: int
) -> None:
    task, planned, other = by_steps(make_task)
    report(task, planned, 0.0, steps=FEWER_STEPS)
    report(task, other, 1.0, steps=reported_steps)
    np.testing.assert_allclose(moved(task)[HEAD], 0.5 * 30 / STEPS, rtol=1e-5)


@pytest.mark.parametrize("policy", [{"clip_update_norm": 0.1}, {"max_update_norm": 0.1}])
def test_a_change_that_weighing_makes_longer_keeps_to_the_bound_on_its_norm(
    make_task: MakeTask, policy: dict[str, float]
) -> None:
    task, few, many = by_steps(make_task, **policy)
    report(task, few, 0.007, steps=FEWER_STEPS)  # of the norm 0.09, which counts three times
    report(task, many, 0.0, steps=STEPS)
    assert update_norm(moved(task)) == pytest.approx(0.1 / 2, rel=1e-3)
