"""Only so many devices train at a time, and the kinds of devices take turns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quadloom_runtime.contract.wire import FailureReport
from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.cost_model import reference_costs
from quadloom_server.rounds import places
from quadloom_server.rounds.control import revoke_device
from quadloom_server.rounds.knowledge import planned_devices
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.plans import rounds_last_included
from quadloom_server.store.tables import Device

MakeTask = Callable[..., Any]
ASYNCHRONOUS = {"rounds": 1000, "min_devices": 6, "min_updates": 1, "largest_staleness": 100, "devices_per_round": 2}


def finish(task: Any, assignment: Any, *, after_s: float = 1.0) -> None:
    task.now_s += after_s
    assert task.report(assignment.assignment_id, task.content(assignment, 0.0)).status == "accepted"
    task.run_background()


def see(task: Any, *devices: str, at_s: float | None = None) -> None:
    """Have the devices send a request that is not for work, now unless said otherwise."""
    with task.state.sessions.begin() as session:
        for each in devices:
            session.get_one(Device, each).seen_at_s = task.now_s if at_s is None else at_s


def test_no_more_than_the_places_train_at_a_time(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=3, min_updates=2, devices_per_round=2)
    first, second, third = task.enrol("first", "second", "third")
    held = [task.assignment(each) for each in (first, second)]
    refused = task.rounds.check_in(third)
    assert refused.assignment is None
    assert "round 1 has 2 devices at work, as many as train at a time" in refused.reason
    assert task.assignment(first).assignment_id == held[0].assignment_id, "who is at work keeps the place"
    task.restart()
    assert task.rounds.check_in(third).assignment is None


def test_a_place_is_given_once_in_a_round(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=3, min_updates=2, devices_per_round=2)
    first, second, third = task.enrol("first", "second", "third")
    held = [task.assignment(each) for each in (first, second)]
    finish(task, held[0])
    assert task.rounds.check_in(third).assignment is None, "an update that counts keeps its place"
    finish(task, held[1])
    assert task.assignment(third).round_index == 2


def test_who_fails_leaves_the_place_to_another(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=1, devices_per_round=1)
    first, second = task.enrol("first", "second")
    held = task.assignment(first)
    task.rounds.report_failure(held.assignment_id, FailureReport(kind="other", message="it broke"))
    assert task.assignment(second).round_index == 1
    assert task.rounds.check_in(first).assignment is None


def test_who_vanishes_leaves_the_place_when_the_round_is_extended(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=1, devices_per_round=1, round_deadline_s=10)
    first, second = task.enrol("first", "second")
    task.assignment(first)
    task.now_s += 11
    assert task.assignment(second).round_index == 1


def test_a_late_device_keeps_its_place_in_the_next_round(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 3})
    slow, fast, other = task.enrol("slow", "fast", "other")
    task.assignment(slow)
    finish(task, task.assignment(fast))
    assert task.assignment(other).round_index == 2
    assert task.rounds.check_in(fast).assignment is None


def test_late_devices_that_vanish_leave_their_places_when_a_round_is_extended(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 3}, round_deadline_s=10)
    fast, vanishing, other = task.enrol("fast", "vanishing", "other")
    late = task.assignment(vanishing)
    finish(task, task.assignment(fast))
    task.policy = replace(task.policy, devices_per_round=1)
    task.restart()
    assert task.rounds.check_in(other).assignment is None, "the late one has the only place"
    task.now_s += 11
    assert task.assignment(other).round_index == 2
    assert task.report(late.assignment_id, task.content(late, 0.0)).status == "accepted", "it was slow, no more"


@pytest.mark.parametrize(("selection", "even"), [("first-come", False), ("in-turn", True)])
def test_kinds_in_turn_hold_the_places_for_as_long_as_is_their_share_of_the_fleet(
    make_task: MakeTask, selection: str, even: bool
) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 4, "devices_per_round": 3}, selection=selection)
    kind = dict.fromkeys(task.enrol(*(f"fast-{index}" for index in range(4)), profile="fast"), "fast")
    kind |= dict.fromkeys(task.enrol(*(f"slow-{index}" for index in range(2)), profile="slow"), "slow")
    takes_s = {"fast": 1, "slow": 3}
    assignments: dict[str, tuple[Any, float]] = {}
    held_s: Counter[str] = Counter()
    for _ in range(60):  # seconds
        see(task, *kind)
        for device in kind:  # the fast ones ask first
            answer = task.rounds.check_in(device)
            if answer.assignment is not None and device not in assignments:
                assignments[device] = answer.assignment, task.now_s
        held_s.update(kind[device] for device in assignments)
        task.now_s += 1
        for device, (_, since_s) in list(assignments.items()):
            if task.now_s - since_s >= takes_s[kind[device]]:
                finish(task, assignments.pop(device)[0], after_s=0)
    assert (abs(held_s["slow"] / held_s.total() - 2 / 6) < 0.05) is even
    assert held_s.total() > 100


def test_a_place_is_kept_for_another_kind_only_while_one_of_it_comes(make_task: MakeTask) -> None:
    task = make_task(
        **ASYNCHRONOUS | {"min_devices": 4}, selection="in-turn", retry_after_s=1, retry_after_rejected_s=5
    )
    fast = task.enrol("fast-0", "fast-1", profile="fast")
    gone = task.enrol("gone-0", "gone-1", profile="gone")
    first = task.assignment(fast[0])
    task.now_s += 100
    see(task, *fast, *gone)
    finish(task, first)
    refused = task.rounds.check_in(fast[0])
    assert refused.assignment is None
    assert "keeps its place for devices of another kind" in refused.reason
    assert "gone" not in refused.reason, "devices are not told of each other's profiles"
    see(task, *gone, at_s=task.now_s - 16)
    assert task.assignment(fast[0]).round_index == 2
    see(task, gone[1])
    assert task.rounds.check_in(fast[1]).assignment is None, "one of them is back"
    assert task.assignment(gone[0]).round_index == 2


def test_who_sends_other_requests_but_never_asks_for_work_holds_the_others_up_for_seconds_only(
    make_task: MakeTask,
) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 2}, selection="in-turn")
    (able,) = task.enrol("able", profile="able")
    (blocking,) = task.enrol("blocking", profile="blocking")
    for number in range(1, 4):
        for _ in range(17):  # seconds
            see(task, able, blocking)
            answer = task.rounds.check_in(able)
            if answer.assignment is not None:
                break
            task.now_s += 1
        assert answer.assignment is not None, answer.reason
        assert answer.assignment.round_index == number
        finish(task, answer.assignment)


def test_a_device_that_sits_the_round_out_keeps_no_place(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 2}, selection="in-turn")
    (able,) = task.enrol("able", profile="able")
    task.enrol("tiny", profile="tiny", memory_limit_bytes=1_000_000)
    for number in range(1, 4):
        mine = task.assignment(able)
        assert mine.round_index == number
        finish(task, mine)


def test_devices_without_a_profile_are_a_kind_of_their_own(make_task: MakeTask) -> None:
    task = make_task(**ASYNCHRONOUS | {"min_devices": 2}, selection="in-turn")
    (named,) = task.enrol("named", profile="board")
    (plain,) = task.enrol("plain")
    finish(task, task.assignment(named))
    assert task.rounds.check_in(named).assignment is None
    assert task.assignment(plain).round_index == 2


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ({"min_updates": 3, "devices_per_round": 2}, "devices_per_round is 2, but no round closes with fewer than 3"),
        ({"devices_per_round": 0}, "devices_per_round is 0"),
        ({"selection": "by-luck"}, "the selection 'by-luck' does not exist"),
    ],
)
def test_a_policy_that_could_not_work_is_refused(policy: dict[str, Any], cause: str) -> None:
    with pytest.raises(QuadloomError, match=cause):
        RoundPolicy(**policy)


def test_who_found_no_place_has_not_been_included(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=1, devices_per_round=1)
    fast, slow, gone = task.enrol("fast", "slow", "gone")
    for _ in range(3):
        held = task.assignment(fast)
        assert task.rounds.check_in(slow).assignment is None
        finish(task, held)
    with task.state.sessions() as session:
        assert rounds_last_included(session) == {fast: 4, slow: 4, gone: 4}, "all are to train in the open round"
    task.assignment(fast)
    assert task.rounds.check_in(slow).assignment is None
    with task.state.sessions() as session:
        assert rounds_last_included(session) == {fast: 4, gone: 4}, "who never came is not due for ever"


def test_a_device_that_is_due_and_finds_no_place_stays_due(make_task: MakeTask) -> None:
    task = make_task(rounds=9, min_devices=2, min_updates=1, devices_per_round=1)
    fast, slow = task.enrol("fast", "slow")
    for _ in range(3):
        held = task.assignment(fast)
        assert task.rounds.check_in(slow).assignment is None
        finish(task, held)
    task.assignment(fast)
    assert task.rounds.check_in(slow).assignment is None
    with task.state.sessions() as session:
        row = session.get_one(Device, slow)
        family = task.family.manifest
        (known,) = planned_devices(
            session,
            [row],
            round_number=5,
            manifest=family,
            references=reference_costs(family),
            settings=task.settings,
        )
    assert known.rounds_since_included == 4


@pytest.mark.parametrize("joined", ["late", "after others left"])
def test_kinds_take_turns_by_what_they_had_lately(
    make_task: MakeTask, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither may a kind that joins late have every place, nor one whose devices left have none."""
    monkeypatch.setattr(places, "ROUNDS_REMEMBERED", 6)
    task = make_task(**ASYNCHRONOUS | {"min_devices": 2}, selection="in-turn")
    old = task.enrol("old-0", "old-1", "old-2", profile="old")
    for turn in range(12):
        finish(task, task.assignment(old[turn % 3]))
    if joined == "late":
        new = task.enrol("new-0", "new-1", "new-2", profile="new")
    else:
        new = task.enrol("new-0", profile="new")
        for each in old[1:]:
            with task.rounds.turn() as turn:
                revoke_device(turn, each)
        old = old[:1]
    had: Counter[str] = Counter()
    for _ in range(12):
        # One of each kind comes; the others are at work or done with the round.
        for kind, device in (("old", old[had["old"] % len(old)]), ("new", new[had["new"] % len(new)])):
            answer = task.rounds.check_in(device)
            if answer.assignment is not None:
                had[kind] += 1
                finish(task, answer.assignment)
    assert min(had.values()) >= had.total() / 3
