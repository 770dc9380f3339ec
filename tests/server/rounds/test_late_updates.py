"""Rounds that close without the slowest, whose updates still count: in a later round, for less, and once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete

from quadloom_runtime.contract.wire import FailureReport
from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.registry import PLANNERS
from quadloom_server.rounds.control import revoke_device
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.plans import rounds_last_included
from quadloom_server.store.tables import PlannedAssignment

MakeTask = Callable[..., Any]
HEAD = "base_model.model.classifier.bias"
ASYNCHRONOUS = {"rounds": 9, "min_devices": 2, "min_updates": 1, "largest_staleness": 2}


def moved(task: Any, number: int) -> float:
    """By how much a round moved the head."""
    return float((task.parameters(number)[HEAD] - task.parameters(number - 1)[HEAD])[0])


def contribute(task: Any, device: str, change: float, **more: Any) -> int:
    """Do the device's work; returns the round that it is for."""
    mine = task.assignment(device)
    assert task.report(mine.assignment_id, task.content(mine, change, **more)).status == "accepted"
    task.run_background()
    return int(mine.round_index)


def test_a_round_closes_on_enough_updates_and_waits_only_for_those_that_would_be_too_late(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    assert held.largest_staleness == 2
    assert [contribute(task, fast, 0.0) for _ in range(3)] == [1, 2, 3]
    assert [each.state for each in task.rounds.task_status().rounds] == ["closed", "closed", "open"]
    assert "waits for other devices" in task.rounds.check_in(fast).reason
    assert task.report(held.assignment_id, task.content(held, 1.0)).status == "accepted"
    task.run_background()
    third = task.rounds.task_status().rounds[2]
    assert (third.state, third.assigned, third.accepted, third.late) == ("closed", 1, 2, 1)


def test_a_device_that_was_at_work_over_several_rounds_did_not_sit_them_out(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    for _ in range(2):
        contribute(task, fast, 0.0)
    task.report(held.assignment_id, task.content(held, 1.0))
    task.run_background()
    with task.state.sessions() as session:
        # Without the plans of the round that has opened since, and of the one that the fast device was still to do.
        session.execute(delete(PlannedAssignment).where(PlannedAssignment.round_number > 2))
        assert rounds_last_included(session) == {fast: 2, slow: 3}
        session.rollback()


def test_a_late_update_weighs_less_by_the_root_of_its_staleness(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    contribute(task, fast, 0.0)
    contribute(task, fast, 0.0)
    mine = task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 1.0, examples=30))
    task.report(held.assignment_id, task.content(held, 5.0, examples=10))
    task.run_background()
    weight = 10 / (1 + np.sqrt(2))
    assert moved(task, 3) == pytest.approx((30 * 1.0 + weight * 5.0) / (30 + weight), abs=1e-6)


def test_after_the_largest_staleness_an_update_is_late(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS, round_deadline_s=10)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    for _ in range(3):
        contribute(task, fast, 0.0)
    task.now_s += 11
    task.rounds.tick()
    task.run_background()
    assert task.report(held.assignment_id, task.content(held, 100.0)).status == "late"
    assert task.assignment(slow).round_index == 4


def test_a_device_at_work_on_an_earlier_round_goes_on_with_it_and_is_not_planned_anew(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    contribute(task, fast, 0.5)
    task.restart()
    again = task.assignment(slow)
    assert (again.assignment_id, again.round_index) == (held.assignment_id, 1)
    assert (again.adapter, again.settings) == (held.adapter, held.settings)
    assert [each.device for each in task.rounds.task_status().rounds[1].work] == ["fast"]


def test_an_update_that_comes_while_its_round_is_closing_counts_in_the_next(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held, mine = task.assignment(slow), task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    assert task.rounds.task_status().rounds[0].state == "open", "closing: the background has not run yet"
    assert task.report(held.assignment_id, task.content(held, 3.0)).status == "accepted"
    task.restart()
    assert task.report(held.assignment_id, task.content(held, 3.0)).status == "duplicate"
    task.run_background()
    task.rounds.tick()
    task.run_background()
    first, second = task.rounds.task_status().rounds[:2]
    assert (first.accepted, second.accepted, second.late) == (1, 1, 1)
    assert (moved(task, 1), moved(task, 2)) == pytest.approx((1.0, 3.0), abs=1e-6)


def test_a_restart_in_the_middle_keeps_a_late_update_and_counts_it_once(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_updates": 2, "min_devices": 3})
    first, second, slow = task.enrol("first", "second", "slow")
    held = task.assignment(slow)
    for device in (first, second):
        contribute(task, device, 0.0)
    content = task.content(held, 4.0)
    assert task.report(held.assignment_id, content).status == "accepted"
    task.restart()
    assert task.report(held.assignment_id, content).status == "duplicate"
    assert "counted" in task.rounds.check_in(slow).reason
    mine = task.assignment(first)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    task.run_background()
    assert moved(task, 2) == pytest.approx((1.0 + 0.5 * 4.0) / 1.5, abs=1e-6)


def test_the_work_of_a_device_for_one_round_counts_once_whatever_round_is_open(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS, round_deadline_s=10)
    fast, slow = task.enrol("fast", "slow")
    first = task.assignment(slow)
    task.now_s += 11
    task.rounds.tick()  # too few updates: the round is extended, and the assignment expires
    second = task.assignment(slow)
    assert second.assignment_id != first.assignment_id
    contribute(task, fast, 0.0)
    assert task.report(first.assignment_id, task.content(first, 1.0)).status == "accepted"
    task.run_background()
    answer = task.report(second.assignment_id, task.content(second, 1.0))
    assert (answer.status, answer.reason) == (
        "duplicate",
        "another update of this device is already counted in round 2",
    )


def test_a_failure_of_late_work_is_noted_and_the_device_gets_work_of_the_open_round(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    contribute(task, fast, 0.0)
    report = FailureReport(kind="out-of-memory", message="no")
    assert task.rounds.report_failure(held.assignment_id, report).status == "accepted"
    following = task.assignment(slow)
    assert following.round_index == 2
    assert following.member != held.member


def test_after_the_last_round_nothing_counts_any_more(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"rounds": 1})
    fast, slow = task.enrol("fast", "slow")
    held, mine = task.assignment(slow), task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    assert task.report(held.assignment_id, task.content(held, 1.0)).status == "late"
    task.run_background()
    assert task.report(held.assignment_id, task.content(held, 1.0)).status == "late"
    assert task.rounds.check_in(slow).task_state == "finished"


def test_a_restart_with_a_smaller_staleness_gives_up_what_is_too_late_now(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS)
    fast, slow = task.enrol("fast", "slow")
    held = task.assignment(slow)
    contribute(task, fast, 0.0)
    task.policy = RoundPolicy(rounds=9, min_devices=2)
    task.restart()
    assert task.assignment(slow).round_index == 2
    assert task.report(held.assignment_id, task.content(held, 1.0)).status == "late"


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_round_may_open_while_every_device_is_at_work_on_an_earlier_one(make_task: MakeTask, planner: str) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 1, "planner": planner})
    fast, slow = task.enrol("fast", "slow")
    held, mine = task.assignment(slow), task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    with task.rounds.turn() as turn:
        revoke_device(turn, fast)
    task.run_background()
    assert task.assignment(slow).assignment_id == held.assignment_id
    assert task.report(held.assignment_id, task.content(held, 1.0)).status == "accepted"


def test_a_negative_staleness_is_refused() -> None:
    with pytest.raises(QuadloomError, match="largest_staleness is -1"):
        RoundPolicy(largest_staleness=-1)


def test_memory_that_ran_out_after_the_round_had_closed_still_makes_the_next_member_smaller(
    make_task: MakeTask,
) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=1, round_deadline_s=10)
    fast, slow = task.enrol("fast", "slow")
    held, mine = task.assignment(slow), task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 0.0))
    task.now_s += 11
    task.rounds.tick()
    task.run_background()
    answer = task.rounds.report_failure(held.assignment_id, FailureReport(kind="out-of-memory", message="no"))
    assert answer.status == "late"
    following = task.assignment(slow)
    assert following.round_index == 2
    assert following.member != held.member
    again = task.rounds.report_failure(held.assignment_id, FailureReport(kind="out-of-memory", message="no"))
    assert again.status == "duplicate"
