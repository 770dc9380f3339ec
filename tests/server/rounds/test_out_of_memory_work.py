"""After out-of-memory a device gets something smaller, for as long as its limit stays what it was."""

from collections.abc import Callable
from typing import Any

from quadloom_runtime.contract.wire import FailureReport

MakeTask = Callable[..., Any]
OUT_OF_MEMORY = FailureReport(kind="out-of-memory", message="step of d02-q00 does not fit")


def fail(task: Any, device: str) -> str:
    assignment = task.assignment(device)
    assert task.rounds.report_failure(assignment.assignment_id, OUT_OF_MEMORY).status == "accepted"
    return str(assignment.member.label)


def test_the_next_check_in_of_the_same_round_gets_the_next_smaller_member(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device")
    failed = [fail(task, device) for _ in range(6)]
    assert failed == ["d02-q00", "d02-q01", "d02-q02", "d01-q00", "d01-q01", "d00-q00"]
    answer = task.rounds.check_in(device)
    assert answer.assignment is None
    assert "every member ran out of memory" in answer.reason


def test_the_reason_says_that_a_larger_member_failed(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device")
    fail(task, device)
    assert "after a larger one ran out of memory" in task.assignment(device).reason


def test_the_exclusion_holds_in_later_rounds_and_after_a_restart(make_task: MakeTask) -> None:
    task = make_task(rounds=2)
    (device,) = task.enrol("device")
    fail(task, device)
    smaller = task.assignment(device)
    task.report(smaller.assignment_id, task.content(smaller, 0.0))
    task.run_background()
    task.restart()
    again = task.assignment(device)
    assert again.round_index == 2
    assert again.member.label == "d02-q01"


def test_other_devices_are_not_affected(make_task: MakeTask) -> None:
    task = make_task()
    weak, strong = task.enrol("weak", "strong")
    fail(task, weak)
    assert task.assignment(strong).member.label == "d02-q00"


def test_a_device_that_got_more_memory_is_tried_again_and_one_that_got_less_is_not(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device", memory_limit_bytes=80_000_000)
    fail(task, device)
    task.enrol("device", memory_limit_bytes=75_000_000)
    assert task.assignment(device).member.label == "d02-q01"
    task.enrol("device", memory_limit_bytes=90_000_000)
    assert task.assignment(device).member.label == "d02-q00"


def test_new_capabilities_void_the_assignment_that_was_planned_for_the_old_ones(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device")
    large = task.assignment(device)
    task.enrol("device", memory_limit_bytes=18_000_000)
    small = task.assignment(device)
    assert (large.member.label, small.member.label) == ("d02-q00", "d00-q00")
    assert large.assignment_id != small.assignment_id


def test_enrolling_again_unchanged_keeps_the_open_assignment(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device")
    before = task.assignment(device)
    task.enrol("device")
    assert task.assignment(device) == before


def test_a_little_more_memory_does_not_bring_back_what_ran_out_of_a_little_less(make_task: MakeTask) -> None:
    """It needs more than 80 MB, nobody knows how much more: 5 % are assumed."""
    task = make_task()
    (device,) = task.enrol("device", memory_limit_bytes=80_000_000)
    assert fail(task, device) == "d02-q00"
    task.enrol("device", memory_limit_bytes=82_000_000)
    assert task.assignment(device).member.label == "d02-q01"
