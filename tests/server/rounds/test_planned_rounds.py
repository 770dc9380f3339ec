"""A round is planned when it opens, all devices at once; the plan is kept, followed, and says who sits out and why."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.status import RoundStatus, RoundWork
from quadloom_runtime.contract.wire import Capabilities, FailureReport
from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.cost_model import DeviceCost, reference_costs
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.planning.registry import PLANNERS, planner
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.tables import Round

MakeTask = Callable[..., Any]
OUT_OF_MEMORY = FailureReport(kind="out-of-memory", message="does not fit")
STEPS = 50
"""A hundred examples in batches of two."""
SPEEDS = {"fast": 1.0, "middle": 1.2, "slow": 1000.0}
"""Seconds per second of the reference machine; the last is not worth waiting for."""


def three_devices(make_task: MakeTask, **policy: Any) -> tuple[Any, dict[str, str]]:
    """A task of three devices of which the deadline planner lets two train."""
    given = {"rounds": 9, "min_devices": 3, "min_updates": 3, "planner": "deadline", "round_deadline_s": 60}
    task = make_task(**(given | policy))
    return task, {name: task.enrol(name, slowdown=speed)[0] for name, speed in SPEEDS.items()}


def report(task: Any, device: str, **figures: Any) -> None:
    assignment = task.assignment(device)
    answer = task.report(assignment.assignment_id, task.content(assignment, 0.1, report=figures))
    assert answer.status == "accepted", answer.reason
    task.run_background()


def latest(task: Any) -> RoundStatus:
    return task.rounds.task_status().rounds[-1]


def work(task: Any, name: str) -> RoundWork:
    (found,) = [each for each in latest(task).work if each.device == name]
    return found


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planned_round_is_the_planners_plan(make_task: MakeTask, name: str) -> None:
    task, devices = three_devices(make_task, planner=name)
    manifest = task.family.manifest
    capabilities = Capabilities(formats=("onnx",), memory_limit_bytes=100_000_000, threads=1, examples=100)
    expected = planner(name)(
        RoundContext(
            members=manifest.members,
            references=reference_costs(manifest),
            layers=2,
            devices=[PlannedDevice(each, capabilities, DeviceCost(slowdown=speed)) for each, speed in SPEEDS.items()],
            steps=STEPS,
            rank=manifest.lora.rank,
            seed=7,
        )
    )
    for each, device_id in devices.items():
        answer = task.rounds.check_in(device_id)
        assert answer.reason == expected[each].reason
        assert (answer.assignment.member if answer.assignment else None) == expected[each].member
        assert work(task, each).expected_s == expected[each].expected_s
        if answer.assignment:
            assert answer.assignment.rank == (expected[each].rank or manifest.lora.rank)
    assert latest(task).planner == name


def test_a_device_is_calibrated_by_the_steps_that_it_made(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=2)
    devices = [*task.enrol("fast", slowdown=1.0), *task.enrol("slow", slowdown=6.0, examples=10)]
    plans = []
    for _ in range(3):
        plans.append({name: work(task, name) for name in ("fast", "slow")})
        for name, device, steps in zip(("fast", "slow"), devices, (STEPS, 5), strict=True):
            report(task, device, steps=steps, train_s=work(task, name).expected_s)
    for later in plans[1:]:
        for name, first in plans[0].items():
            assert later[name].expected_s == pytest.approx(first.expected_s, rel=1e-6)


def test_a_restart_in_the_middle_of_a_round_keeps_the_plan_whatever_the_new_server_would_plan(
    make_task: MakeTask,
) -> None:
    task, devices = three_devices(make_task)
    before = [task.rounds.check_in(devices["fast"]).assignment, latest(task).work]
    task.policy = RoundPolicy(rounds=9, min_devices=3, min_updates=3, planner="deepest")
    task.restart()
    assert [task.rounds.check_in(devices["fast"]).assignment, latest(task).work] == before
    assert task.rounds.check_in(devices["slow"]).assignment is None
    for name in ("fast", "middle"):
        report(task, devices[name])
    assert task.rounds.check_in(devices["slow"]).assignment is not None, "the next round is the new planner's"


def test_a_device_that_sits_out_is_told_why_and_not_waited_for(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    answer = task.rounds.check_in(devices["slow"])
    assert answer.assignment is None
    assert answer.reason.startswith("sits out: takes at least")
    assert latest(task).needed == 2
    assert f"round 1: slow has no work ({answer.reason})" in task.events
    report(task, devices["fast"])
    assert latest(task).index == 1, "the middle one has work, so it is waited for"
    report(task, devices["middle"])
    assert latest(task).index == 2


def test_who_sits_out_takes_part_at_least_every_fourth_round(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    took_part = []
    for number in range(1, 9):
        assert latest(task).index == number
        took_part.append(work(task, "slow").member is not None)
        for name in SPEEDS:
            if work(task, name).member is not None:
                report(task, devices[name], steps=STEPS, train_s=2.5 * SPEEDS[name])
    assert took_part == [False, False, False, True] * 2


def test_when_a_round_is_extended_whoever_sits_out_may_help(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    report(task, devices["fast"])
    task.now_s += 61
    task.rounds.tick()
    report(task, devices["slow"])
    report(task, devices["middle"])
    assert latest(task).index == 2


def test_a_device_that_comes_later_is_planned_alone_by_its_deepest_that_fits(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    (late,) = task.enrol("late", slowdown=1000.0, memory_limit_bytes=51_000_000)
    assignment = task.assignment(late)
    assert assignment.member == MemberKey(depth=2, quantized_layers=2)
    assert assignment.reason.startswith("deepest that fits")
    assert work(task, "late").expected_s == pytest.approx(1000 * STEPS * (4e9 + 2 * 70e6) * 2.5e-11)
    for name in ("fast", "middle"):
        report(task, devices[name])
    assert latest(task).index == 1, "who has work is waited for"


def test_new_capabilities_in_the_middle_of_a_round_get_a_plan_of_their_own(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    task.enrol("slow", slowdown=1.0)
    task.enrol("fast", memory_limit_bytes=18_000_000)
    assert task.assignment(devices["slow"]).member == MemberKey(depth=2, quantized_layers=0)
    assert task.assignment(devices["fast"]).member == MemberKey(depth=0, quantized_layers=0)


def test_new_capabilities_after_the_work_is_done_leave_the_plan_as_it_was(make_task: MakeTask) -> None:
    task, devices = three_devices(make_task)
    report(task, devices["fast"])
    before = work(task, "fast")
    task.enrol("fast", memory_limit_bytes=18_000_000)
    assert work(task, "fast") == before


def test_after_out_of_memory_a_device_gets_a_smaller_member_and_the_estimate_stays_corrected(
    make_task: MakeTask,
) -> None:
    task = make_task(rounds=9, planner="deadline")
    (device,) = task.enrol("device")
    failed = []
    for _ in range(2):
        assignment = task.assignment(device)
        failed.append(assignment.member.label)
        task.rounds.report_failure(assignment.assignment_id, OUT_OF_MEMORY)
    assert failed == ["d02-q00", "d02-q01"]
    assert task.assignment(device).member.label == "d02-q02"
    report(task, device)
    assert task.assignment(device).member.label == "d02-q02", "the next round does not try again what failed"
    # 55 MB failed under 100 MB, so that 44 MB are 79 MB here: they do not fit 80 MB with what a step needs beside.
    task.enrol("device", memory_limit_bytes=80_000_000)
    assert task.assignment(device).member.label == "d01-q00"
    report(task, device)
    assert work(task, "device").member == MemberKey(depth=1, quantized_layers=0)


def test_a_measured_peak_above_the_plan_corrects_the_estimate(make_task: MakeTask) -> None:
    task = make_task(rounds=9, planner="deepest")
    (device,) = task.enrol("device")
    report(task, device, peak_step_bytes=95_000_000)
    task.enrol("device", memory_limit_bytes=90_000_000)
    assert task.assignment(device).member.label == "d02-q01"


def test_a_device_for_which_nothing_is_left_after_failures_is_not_waited_for(make_task: MakeTask) -> None:
    task = make_task(min_devices=2, min_updates=2)
    weak, strong = *task.enrol("weak", memory_limit_bytes=18_000_000), *task.enrol("strong")
    task.rounds.report_failure(task.assignment(weak).assignment_id, OUT_OF_MEMORY)
    assert "every member ran out of memory" in task.rounds.check_in(weak).reason
    report(task, strong)
    assert latest(task).index == 2


def test_a_device_that_reports_twice_the_time_is_planned_with_twice_the_time(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=2)
    devices = dict(zip(("slower", "as-expected"), task.enrol("slower", "as-expected"), strict=True))
    first_s = {name: work(task, name).expected_s for name in devices}
    assert first_s["slower"] == pytest.approx(STEPS * 4e9 * 2.5e-11)
    report(task, devices["slower"], steps=STEPS, train_s=2 * first_s["slower"])
    report(task, devices["as-expected"], steps=STEPS, train_s=first_s["as-expected"])
    assert work(task, "slower").expected_s == pytest.approx(2 * first_s["slower"])
    assert work(task, "as-expected").expected_s == pytest.approx(first_s["as-expected"])


def test_a_device_that_has_not_reported_is_as_much_slower_than_it_says_as_the_others(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=3, min_updates=1)
    names = ("one", "two", "silent")
    devices = dict(zip(names, task.enrol(*names, slowdown=2.0), strict=True))
    first_s = work(task, "silent").expected_s
    task.assignment(devices["two"])
    report(task, devices["one"], steps=STEPS, train_s=3 * first_s)
    report(task, devices["two"], steps=STEPS, train_s=7 * first_s)
    assert latest(task).index == 2
    assert work(task, "silent").expected_s == pytest.approx(5 * first_s)
    (late,) = task.enrol("late", slowdown=4.0)
    task.assignment(late)
    assert work(task, "late").expected_s == pytest.approx(10 * first_s)


def test_links_are_calibrated_by_what_is_reported_and_files_count_once(make_task: MakeTask) -> None:
    task = make_task(rounds=9)
    (device,) = task.enrol("device", slowdown=1e-3, download_bytes_per_s=1e6, upload_bytes_per_s=1e3)
    costs = reference_costs(task.family.manifest)[MemberKey(depth=2, quantized_layers=0)]
    first = costs.adapter_bytes + costs.own_bytes + costs.shared_bytes
    assert work(task, "device").expected_s == pytest.approx(first / 1e6 + costs.update_bytes / 1e3 + 0.005, rel=1e-3)
    link = {"downloaded_bytes": 300_000, "download_s": 3.0, "last_upload_bytes": 100_000, "last_upload_s": 10.0}
    report(task, device, steps=STEPS, train_s=0.005, **link)
    expected = costs.adapter_bytes / 1e5 + costs.update_bytes / 1e4 + 0.005
    assert work(task, "device").expected_s == pytest.approx(expected, rel=1e-3)


def test_importance_is_the_moving_average_of_the_median_norms_that_are_reported(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=2)
    deep, shallow = *task.enrol("deep"), *task.enrol("shallow", memory_limit_bytes=40_000_000)
    for norms in (((4.0, 1.0), (3.0,)), ((8.0, 4.0), (4.0,))):
        report(task, deep, gradient_norms=norms[0])
        report(task, shallow, gradient_norms=norms[1])
    with task.state.sessions() as session:
        known = [session.get_one(Round, number).importance for number in (1, 2, 3)]
    assert known == [{}, {"0": 4.0, "1": 2.0}, pytest.approx({"0": 0.7 * 4 + 0.3 * 8, "1": 0.7 * 2 + 0.3 * 4})]


@pytest.mark.parametrize(
    "lie",
    [
        {"train_s": -1.0},
        {"train_s": 1e300},
        {"download_s": -5.0},
        {"last_upload_s": 1e300},
        {"peak_step_bytes": -1},
        {"peak_step_bytes": 10**30},
        {"gradient_norms": (1.0, -1.0)},
        {"gradient_norms": (1.0, 1e30)},
        {"gradient_norms": (1.0,) * 3},
    ],
)
def test_a_lying_device_is_refused_and_the_next_plan_does_not_know_the_lie(
    make_task: MakeTask, lie: dict[str, Any]
) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=1)
    liar, honest = task.enrol("liar", "honest")
    assignment = task.assignment(liar)
    answer = task.report(assignment.assignment_id, task.content(assignment, 0.1, report=lie))
    assert answer.status == "rejected"
    expected_s = work(task, "liar").expected_s
    report(task, honest, gradient_norms=(0.5, 0.25), steps=STEPS, train_s=expected_s)
    assert work(task, "liar").expected_s == pytest.approx(expected_s)
    with task.state.sessions() as session:
        assert session.get_one(Round, 2).importance == {"0": 0.5, "1": 0.25}


@pytest.mark.parametrize("extreme", [{"train_s": 0.0}, {"train_s": 5e-324}, {"train_s": 1e8, "download_s": 0.0}])
def test_the_extremes_of_what_a_device_may_say_do_not_stop_the_task(
    make_task: MakeTask, extreme: dict[str, Any]
) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=2, planner="deadline")
    for name, device in zip(("odd", "even"), task.enrol("odd", "even"), strict=True):
        report(task, device, **(extreme if name == "odd" else {}))
    assert latest(task).index == 2
    assert any(each.member is not None for each in latest(task).work)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("seed", range(3))
def test_no_assignment_ever_exceeds_the_limit_or_needs_as_much_as_one_that_failed_under_it(
    make_task: MakeTask, name: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    task = make_task(rounds=99, min_devices=3, planner=name, round_deadline_s=60)
    members = {each.key: each for each in task.family.manifest.members}
    limits: dict[str, int] = {}
    failed: dict[str, list[tuple[int, int]]] = defaultdict(list)
    """By device: what a member needs that ran out of memory, and the limit then."""

    def enrol_anew(device: str) -> None:
        limits[device] = int(random.integers(10, 90)) * 1_000_000
        ids[device] = task.enrol(device, memory_limit_bytes=limits[device], slowdown=float(random.uniform(1, 20)))[0]

    ids: dict[str, str] = {}
    given = given_after_failure = 0
    for device in ("one", "two", "three"):
        enrol_anew(device)
    for _ in range(60):
        device = str(random.choice(list(ids)))
        if random.random() < 0.2:
            enrol_anew(device)
        assignment = task.rounds.check_in(ids[device]).assignment
        if assignment is None:
            task.now_s += 30
            continue
        given += 1
        needed = needed_bytes(members[assignment.member])
        assert needed <= limits[device]
        too_much = [failed_needed for failed_needed, limit in failed[device] if limit >= limits[device]]
        given_after_failure += bool(too_much)
        assert needed < min(too_much, default=math.inf)
        if random.random() < 0.3:
            failed[device].append((needed, limits[device]))
            task.rounds.report_failure(assignment.assignment_id, OUT_OF_MEMORY)
        else:
            report(task, ids[device])
    assert given > 10
    assert given_after_failure > 0


def test_waiting_is_told_per_round_against_a_uniform_plan(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=2, planner="deepest")
    quick, slow = *task.enrol("quick"), *task.enrol("slow", slowdown=3.0, memory_limit_bytes=40_000_000)
    for device, taken_s in ((quick, 10), (slow, 30)):
        assignment = task.assignment(device)
        task.now_s += taken_s
        task.report(assignment.assignment_id, task.content(assignment, 0.1))
    task.run_background()
    first = task.rounds.task_status().rounds[0]
    assert [each.real_s for each in first.work] == [10, 30]
    assert (first.waiting.sum_s, first.waiting.share) == (20, pytest.approx(20 / 60))
    one_layer_s = STEPS * 3e9 * 2.5e-11
    assert first.uniform_depth == 1
    assert first.uniform_waiting.sum_s == pytest.approx(2 * one_layer_s, rel=0.01)
    assert first.uniform_waiting.share == pytest.approx(1 / 3, rel=0.01)
    (line,) = [each for each in task.events if "for the slowest" in each]
    assert line == (
        "round 1: devices waited 20.0 s (33 %) for the slowest; with depth 1 on all of them, 7.5 s (33 %) were expected"
    )


def test_an_unknown_planner_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(QuadloomError, match="no planner is called 'fastest'") as caught:
        RoundPolicy(planner="fastest")
    assert "deadline" in caught.value.remedy
