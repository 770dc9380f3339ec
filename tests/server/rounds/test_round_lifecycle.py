"""Rounds from the first enrolment to the last adapter, with a clock that the test moves."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import Evaluation, FailureReport
from quadloom_runtime.errors import QuadloomError
from quadloom_server.rounds.control import revoke_device
from quadloom_server.rounds.policy import RoundPolicy

MakeTask = Callable[..., Any]
HEAD = "base_model.model.classifier.bias"


def test_the_first_round_opens_when_enough_devices_have_enrolled(make_task: MakeTask) -> None:
    task = make_task(min_devices=2)
    (first,) = task.enrol("first")
    waiting = task.rounds.check_in(first)
    assert waiting.assignment is None
    assert waiting.retry_after_s > 0
    assert waiting.reason == "1 of 2 devices have enrolled"
    task.enrol("second")
    assert task.assignment(first).round_index == 1


def test_enrolling_again_under_one_name_is_the_same_device(make_task: MakeTask) -> None:
    task = make_task(min_devices=2)
    assert task.enrol("same") == task.enrol("same", memory_limit_bytes=50_000_000)
    (status,) = task.rounds.task_status().devices
    assert status.memory_limit_bytes == 50_000_000


def test_each_device_gets_the_member_that_fits_it_with_all_that_it_needs(make_task: MakeTask) -> None:
    task = make_task()
    (large,) = task.enrol("large")
    (small,) = task.enrol("small", memory_limit_bytes=51_000_000)
    deep, narrow = task.assignment(large), task.assignment(small)
    assert deep.member == MemberKey(depth=2, quantized_layers=0)
    assert narrow.member == MemberKey(depth=2, quantized_layers=2)
    assert [each.path for each in narrow.blobs] == [
        "onnx/train-d02-q02.onnx",
        "onnx/weights.bin",
        "tokenizer/tokenizer.json",
    ]
    assert narrow.adapter.sha256 == task.family.initial_adapter.sha256
    assert narrow.manifest_sha256 == task.family.manifest_sha256


def test_a_device_for_which_nothing_fits_is_told_why(make_task: MakeTask) -> None:
    task = make_task()
    (tiny,) = task.enrol("tiny", memory_limit_bytes=1_000_000)
    answer = task.rounds.check_in(tiny)
    assert answer.assignment is None
    assert "smallest member, d00-q00, needs 15.0 MB" in answer.reason


def test_an_open_assignment_is_handed_out_again(make_task: MakeTask) -> None:
    task = make_task()
    (device,) = task.enrol("device")
    first = task.assignment(device)
    task.now_s += 100
    second = task.assignment(device)
    assert second == first.model_copy(update={"deadline_s": first.deadline_s - 100})


def test_a_round_closes_with_the_weighted_mean_and_the_next_one_starts_from_it(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=2)
    deep, shallow = *task.enrol("deep"), *task.enrol("shallow", memory_limit_bytes=18_000_000)
    before = task.parameters(0)
    first, second = task.assignment(deep), task.assignment(shallow)
    assert second.member.depth == 0
    assert task.report(first.assignment_id, task.content(first, 1.0, examples=30)).status == "accepted"
    assert task.report(second.assignment_id, task.content(second, 5.0, examples=10)).status == "accepted"

    meanwhile = task.rounds.check_in(deep)
    assert meanwhile.assignment is None
    assert meanwhile.reason == "round 1 is being closed"
    task.run_background()

    after = task.parameters(1)
    for row in task.family.manifest.parameters:
        expected = 2.0 if row.layer == "head" else 1.0  # (30 * 1 + 10 * 5) / 40 against the deep device alone
        np.testing.assert_allclose(after[row.name] - before[row.name], expected, rtol=1e-6, atol=1e-6)
    next_one = task.assignment(deep)
    assert next_one.round_index == 2
    assert next_one.adapter == task.state.adapters.reference(1)
    assert next_one.adapter == task.rounds.task_status().rounds[0].adapter
    assert next_one.settings.seed != first.settings.seed


def test_a_round_waits_for_outstanding_assignments_until_its_deadline(make_task: MakeTask) -> None:
    task = make_task(min_devices=2, min_updates=1, round_deadline_s=60)
    fast, slow = task.enrol("fast", "slow")
    task.assignment(slow)
    mine = task.assignment(fast)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    task.now_s += 59
    task.rounds.tick()
    assert "waits for other devices" in task.rounds.check_in(fast).reason
    task.now_s += 1
    task.rounds.tick()
    task.run_background()
    assert [each.state for each in task.rounds.task_status().rounds] == ["closed", "open"]


def test_at_the_deadline_with_too_few_updates_the_round_is_extended_and_vanished_devices_get_new_work(
    make_task: MakeTask,
) -> None:
    task = make_task(min_updates=2, min_devices=2, round_deadline_s=60)
    here, vanished = task.enrol("here", "vanished")
    lost = task.assignment(vanished)
    mine = task.assignment(here)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    task.now_s += 61
    task.rounds.tick()
    task.run_background()
    again = task.assignment(vanished)
    assert again.assignment_id != lost.assignment_id
    assert again.round_index == 1
    assert again.deadline_s == 60
    task.report(again.assignment_id, task.content(again, 1.0))
    task.run_background()
    assert task.rounds.task_status().rounds[0].state == "closed"


def test_a_device_that_failed_gets_no_second_assignment_before_the_deadline_is_extended(make_task: MakeTask) -> None:
    task = make_task(round_deadline_s=60)
    (device,) = task.enrol("device")
    failed = task.assignment(device)
    answer = task.rounds.report_failure(failed.assignment_id, FailureReport(kind="other", message="no data"))
    assert answer.status == "accepted"
    task.now_s += 30
    assert task.rounds.check_in(device).assignment is None
    task.now_s += 31
    assert task.assignment(device).assignment_id != failed.assignment_id
    assert task.rounds.task_status().rounds[0].failed == 1


def run_round(task: Any, device: str, change: float) -> None:
    assignment = task.assignment(device)
    task.report(assignment.assignment_id, task.content(assignment, change))
    task.run_background()


def test_after_the_last_round_every_device_hears_that_it_is_finished(make_task: MakeTask) -> None:
    task = make_task(rounds=2)
    first, second = task.enrol("first", "second")
    run_round(task, first, 0.1)
    assert not task.rounds.is_finished()
    run_round(task, first, 0.1)
    assert task.rounds.is_finished()
    assert task.rounds.check_in(first).task_state == "finished"
    assert not task.rounds.every_device_knows()
    assert task.rounds.check_in(second).task_state == "finished"
    assert task.rounds.every_device_knows()
    status = task.rounds.task_status()
    assert status.state == "finished"
    assert len(status.rounds) == 2


def test_a_round_that_is_open_closes_also_when_fewer_rounds_are_wanted_since_a_restart(make_task: MakeTask) -> None:
    task = make_task(rounds=3)
    (device,) = task.enrol("device")
    for _ in range(2):
        run_round(task, device, 0.1)
    mine = task.assignment(device)
    task.policy = replace(task.policy, rounds=1)
    task.restart()
    assert task.report(mine.assignment_id, task.content(mine, 0.1)).status == "accepted"
    task.run_background()
    assert task.rounds.check_in(device).task_state == "finished"
    assert [each.state for each in task.rounds.task_status().rounds] == ["closed"] * 3


def test_training_ends_early_at_the_target_accuracy(make_task: MakeTask) -> None:
    task = make_task(rounds=50, target_accuracy=0.999)
    (device,) = task.enrol("device")
    run_round(task, device, 0.0)
    assert not task.rounds.is_finished()
    run_round(task, device, 20.0)
    assert task.rounds.is_finished()
    assert "target is 0.999" in task.rounds.check_in(device).reason


def test_training_ends_early_at_the_target_loss(make_task: MakeTask) -> None:
    task = make_task(rounds=50, target_loss=5.0)
    (device,) = task.enrol("device")
    run_round(task, device, 20.0)
    assert not task.rounds.is_finished()
    run_round(task, device, -20.0)
    assert task.rounds.is_finished()
    assert "target is 5" in task.rounds.check_in(device).reason


def test_every_adapter_is_evaluated_the_initial_one_included(make_task: MakeTask) -> None:
    task = make_task(rounds=1)
    (device,) = task.enrol("device")
    run_round(task, device, 0.25)
    status = task.rounds.task_status()
    biases = [task.parameters(number)[HEAD][0] for number in (0, 1)]
    expected = [1 / (1 + np.exp(-bias)) for bias in biases]
    assert status.initial_evaluation is not None
    assert status.initial_evaluation.accuracy == pytest.approx(expected[0])
    assert status.rounds[0].evaluation.accuracy == pytest.approx(expected[1])
    assert expected[0] != pytest.approx(expected[1])


def test_without_an_evaluator_rounds_close_unevaluated(make_task: MakeTask) -> None:
    task = make_task(rounds=1, evaluator=None)
    (device,) = task.enrol("device")
    run_round(task, device, 0.25)
    assert task.rounds.task_status().rounds[0].evaluation is None
    assert task.rounds.is_finished()


def test_a_diverged_model_stops_the_task_with_the_round_that_did_it(make_task: MakeTask) -> None:
    def diverges(parameters: Any) -> Evaluation:
        return Evaluation(accuracy=0.5, loss=0.7 if abs(parameters[HEAD]).max() < 50 else float("nan"), examples=1)

    task = make_task(evaluator=diverges)
    (device,) = task.enrol("device")
    with pytest.raises(QuadloomError, match="diverged: its loss after round 1 is nan"):
        run_round(task, device, 1000.0)


def test_events_tell_the_story_in_order(make_task: MakeTask) -> None:
    task = make_task(rounds=1)
    (device,) = task.enrol("phone")
    run_round(task, device, 0.5)
    told = [
        "enrolled phone",
        "round 1 open",
        "phone assigned d02-q00 (deepest",
        "phone update accepted (d02-q00, 10 examples",
        "round 1 closing with 1 updates",
        "initial adapter: accuracy",
        "round 1 closed",
        "finished: all 1 rounds",
    ]
    assert len(task.events) == len(told)
    for words, line in zip(told, task.events, strict=True):
        assert words in line


@pytest.mark.parametrize(
    "wrong",
    [
        *({"rounds": 0}, {"min_devices": 0}, {"min_updates": -1}, {"round_deadline_s": 0.0}),
        *({"target_accuracy": 80.0}, {"target_loss": 0.0}),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name_and_value(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(QuadloomError, match=f"{name} is {value}"):
        RoundPolicy(**wrong)


def test_a_device_that_was_told_and_then_revoked_does_not_stand_for_one_that_was_not(make_task: MakeTask) -> None:
    task = make_task(rounds=1, min_devices=3, min_updates=1, round_deadline_s=10)
    first, second, third = task.enrol("first", "second", "third")
    mine = task.assignment(first)
    task.report(mine.assignment_id, task.content(mine, 0.0))
    task.now_s += 11
    task.rounds.tick()
    task.run_background()
    assert task.rounds.check_in(first).task_state == "finished"
    with task.rounds.turn() as turn:
        revoke_device(turn, first)
    task.rounds.check_in(second)
    assert not task.rounds.every_device_knows()
    task.rounds.check_in(third)
    assert task.rounds.every_device_knows()
