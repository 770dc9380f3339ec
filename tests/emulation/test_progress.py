"""What the emulator makes of device events and of the server's task status."""

import json
from pathlib import Path
from typing import Any

import pytest

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.status import DeviceStatus, RoundStatus, RoundWork, TaskStatus, Waiting
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.emulation.fleet_file import FleetDevice
from quadloom_runtime.emulation.progress import (
    FINAL_COLUMNS,
    LIVE_COLUMNS,
    ROUND_COLUMNS,
    DeviceProgress,
    EventTail,
    can_go_on,
    final_rows,
    fleet_lines,
    round_rows,
)
from quadloom_runtime.emulation.round_report import WORK_COLUMNS, waiting_line, work_rows

FLEET = tuple(
    FleetDevice(name=name, profile="phone-mid", memory_limit_bytes=90_000_000, options=()) for name in ("one", "two")
)


def device_status(name: str, **given: Any) -> DeviceStatus:
    values: dict[str, Any] = {
        "device_id": f"id-{name}",
        "name": name,
        "profile": "phone-mid",
        "memory_limit_bytes": 90_000_000,
        "member": MemberKey(depth=6, quantized_layers=4),
        "state": "accepted",
        "round_index": 1,
        "rounds_accepted": 1,
        "peak_step_bytes": 71_234_567,
        "train_s": 12.34,
        "bytes_down": 93_400_000,
        "bytes_up": 650_000,
        "rank": 8,
        "counted_round": 1,
    }
    return DeviceStatus(**(values | given))


def round_status(index: int, *, evaluation: Evaluation | None = None, **given: Any) -> RoundStatus:
    values: dict[str, Any] = {
        "state": "open",
        "assigned": 2,
        "accepted": 1,
        "failed": 0,
        "duration_s": 30.06,
        "adapter": None,
    }
    return RoundStatus(index=index, evaluation=evaluation, **(values | given))


def task_status(
    *, devices: tuple[DeviceStatus, ...] = (), rounds: tuple[RoundStatus, ...] = (), start: Evaluation | None = None
) -> TaskStatus:
    return TaskStatus(
        task_id="task", state="running", reason="", rounds=rounds, devices=devices, initial_evaluation=start
    )


def say_a_round(log: EventLog) -> None:
    log.say("enrolled")
    log.say("assigned", round_index=2, member="d06-q04", depth=6, quantized_layers=4, reason="deepest that fits")
    log.say("fetched", downloaded_bytes=10)
    log.say("step", round_index=2, step=1, steps=5, loss=0.7)


def test_progress_follows_what_a_device_says(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log, tail = EventLog(path), EventTail(path)
    assert tail.read() == DeviceProgress()
    say_a_round(log)
    now = tail.read()
    assert (now.activity, now.member, now.round_index, now.step, now.steps) == ("training", "d06-q04", 2, 1, 5)
    assert now.loss == 0.7
    log.say("step", round_index=2, step=2, steps=5, loss=0.6)
    log.say("reported", round_index=2, status="accepted", peak_step_bytes=1, train_s=1.0, upload_bytes=1, loss=0.6)
    now = tail.read()
    assert (now.activity, now.step, now.loss) == ("reported", 2, 0.6)


def test_every_out_of_memory_failure_is_counted_and_the_next_member_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log, tail = EventLog(path), EventTail(path)
    for member in ("d06-q04", "d06-q05"):
        log.say("assigned", round_index=1, member=member, depth=6, quantized_layers=4, reason="")
        log.say("out-of-memory", member=member)
    assert (tail.read().activity, tail.read().out_of_memory) == ("out of memory", 2)
    log.say("assigned", round_index=1, member="d06-q06", depth=6, quantized_layers=6, reason="")
    assert (tail.read().member, tail.read().activity) == ("d06-q06", "fetching")


def test_a_waiting_device_says_why(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).say("waiting", reason="nothing fits: the smallest member needs 3.0 MB")
    now = EventTail(path).read()
    assert (now.activity, now.waits_because) == ("waiting", "nothing fits: the smallest member needs 3.0 MB")


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_an_event_file_is_understood_however_it_is_cut_while_it_grows(tmp_path: Path, cut: int) -> None:
    say_a_round(EventLog(tmp_path / "whole.jsonl"))
    content = (tmp_path / "whole.jsonl").read_bytes()
    growing = EventTail(tmp_path / "growing.jsonl")
    for end in range(0, len(content) + cut, cut):
        growing.path.write_bytes(content[:end])
        growing.read()
    assert growing.progress == EventTail(tmp_path / "whole.jsonl").read()


def test_an_event_that_is_not_known_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"time_s": 0.0, "event": "invented"}) + "\n", encoding="utf-8")
    assert EventTail(path).read() == DeviceProgress()


def test_the_final_table_sets_the_peak_against_the_limit_and_counts_bytes_both_ways() -> None:
    task = task_status(devices=(device_status("one", rounds_accepted=3),))
    news = {"one": DeviceProgress(out_of_memory=2), "two": DeviceProgress()}
    first, second = (dict(zip(FINAL_COLUMNS, row, strict=True)) for row in final_rows(task, FLEET, news))
    assert first == {
        "device": "one",
        "profile": "phone-mid",
        "(d, q)": "(6, 4)",
        "rank": "8",
        "peak / limit MB": "71.2 / 90",
        "train s": "12.3",
        "MB down": "93.4",
        "MB up": "0.7",
        "rounds": "3",
        "out of memory": "2",
    }
    assert (second["device"], second["(d, q)"], second["rounds"]) == ("two", "-", "0")


def test_the_round_table_begins_with_the_untrained_model_and_leaves_open_what_is_not_known() -> None:
    start = Evaluation(accuracy=0.5142, loss=0.6925, examples=1056)
    after = Evaluation(accuracy=0.80123, loss=0.45678, examples=1056)
    rounds = (round_status(1, evaluation=after, state="closed", accepted=2), round_status(2))
    rows = [dict(zip(ROUND_COLUMNS, row, strict=True)) for row in round_rows(task_status(rounds=rounds, start=start))]
    assert [row["round"] for row in rows] == ["start", "1", "2"]
    assert [row["accuracy"] for row in rows] == ["0.5142", "0.8012", "-"]
    assert (rows[1]["accepted"], rows[1]["seconds"], rows[1]["loss"]) == ("2", "30.1", "0.4568")


def test_the_live_table_has_a_row_for_a_device_that_has_said_nothing_yet() -> None:
    news = {"one": DeviceProgress(activity="training", member="d06-q04", round_index=1, step=3, steps=9, loss=0.51234)}
    first, second = fleet_lines(FLEET, news | {"two": DeviceProgress()})
    assert dict(zip(LIVE_COLUMNS, first, strict=True))["step"] == "3/9"
    assert dict(zip(LIVE_COLUMNS, first, strict=True))["loss"] == "0.512"
    assert second == ("two", "phone-mid", "90 MB", "-", "-", "starting", "-", "-")


def test_the_table_of_a_round_says_who_got_what_why_and_who_waited() -> None:
    work = (
        RoundWork(
            device="one", member=MemberKey(depth=6, quantized_layers=4), reason="fits", expected_s=9.5, real_s=10.0
        ),
        RoundWork(
            device="two", member=MemberKey(depth=2, quantized_layers=0), reason="fits", expected_s=20.0, real_s=25
        ),
        RoundWork(
            device="late", member=MemberKey(depth=2, quantized_layers=0), reason="fits", expected_s=5, real_s=None
        ),
        RoundWork(device="idle", member=None, reason="sits out: too slow", expected_s=None, real_s=None),
    )
    status = round_status(
        3,
        planner="deadline",
        work=work,
        waiting=Waiting(sum_s=15, share=0.3),
        uniform_depth=2,
        uniform_waiting=Waiting(sum_s=40.04, share=0.5),
    )
    assert [dict(zip(WORK_COLUMNS, row, strict=True))["waits s"] for row in work_rows(status)] == [
        "15.0",
        "0.0",
        "-",
        "-",
    ]
    assert work_rows(status)[0] == ("one", "d06-q04", "9.5", "10.0", "15.0", "fits")
    assert work_rows(status)[3] == ("idle", "-", "-", "-", "-", "sits out: too slow")
    assert waiting_line(status) == (
        "round 3 (deadline): devices waited 15.0 s (30 %) for the slowest; with depth 2 on all of them, 40.0 s (50 %) "
        "were expected"
    )
    assert round_rows(task_status(rounds=(status,)))[0][-2:] == ("15.0 s (30 %)", "40.0 s (50 %)")


class TestWhetherEnoughDevicesAreLeft:
    def test_a_round_needs_no_update_of_a_device_that_sits_out(self) -> None:
        task = task_status(devices=(device_status("one"),), rounds=(round_status(1, needed=1),))
        assert can_go_on(task, set(), devices=2, needed_updates=2)
        assert not can_go_on(task_status(rounds=(round_status(1, needed=1),)), set(), devices=2, needed_updates=2)

    def test_the_first_round_opens_only_if_every_device_can_still_enrol(self) -> None:
        enrolled = task_status(devices=(device_status("one", state="enrolled", round_index=None),))
        assert not can_go_on(None, {"two"}, devices=2, needed_updates=1)
        assert can_go_on(None, {"one", "two"}, devices=2, needed_updates=2)
        assert can_go_on(enrolled, {"two"}, devices=2, needed_updates=1)

    def test_a_round_that_lost_a_device_whose_update_it_needs_cannot_close(self) -> None:
        task = task_status(
            devices=(device_status("one"), device_status("two", state="open", counted_round=None)),
            rounds=(round_status(1),),
        )
        assert not can_go_on(task, {"one"}, devices=2, needed_updates=2)
        assert can_go_on(task, {"one"}, devices=2, needed_updates=1)

    def test_an_update_that_counts_already_counts_also_if_its_device_is_gone(self) -> None:
        task = task_status(
            devices=(device_status("one"), device_status("two", state="open")), rounds=(round_status(1),)
        )
        assert can_go_on(task, {"two"}, devices=2, needed_updates=2)

    def test_an_update_of_an_earlier_round_does_not_count_for_this_one(self) -> None:
        devices = (device_status("one", round_index=1), device_status("two", state="open", round_index=2))
        task = task_status(devices=devices, rounds=(round_status(1, state="closed"), round_status(2)))
        assert not can_go_on(task, {"two"}, devices=2, needed_updates=2)
