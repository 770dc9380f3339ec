"""Five schedules that together kill server and devices at every named phase; `tests.faults.run` runs many more."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.faults.fleet import FleetRun, run_fleet
from tests.faults.link import LinkFault
from tests.faults.run import run_schedules
from tests.faults.schedule import CRASH_POINTS, Schedule, schedule
from tests.faults.verdict import check_run

EVERY_PHASE = [31, 50, 57, 63, 184]


def test_deaths_at_every_phase_and_broken_links_lose_nothing_and_double_nothing(
    undisturbed: FleetRun, tmp_path: Path
) -> None:
    happened, failed = run_schedules(EVERY_PHASE, undisturbed=undisturbed, work=tmp_path, jobs=4)
    assert not failed, "what was wrong is printed above, with the seed that brings it back"
    assert set(CRASH_POINTS) <= set(happened)


def test_an_update_whose_acknowledgement_is_lost_is_sent_again_and_counted_once(
    undisturbed: FleetRun, tmp_path: Path
) -> None:
    lost = LinkFault("PUT /v1/assignments/", nth=1, side="answer", after_bytes=0)
    run = run_fleet(Schedule(None, {}, (lost,)), family=undisturbed.family, work=tmp_path / "run")
    assert run.cuts == (lost,)
    check_run(run, undisturbed=undisturbed)
    told = [json.loads(line) for path in run.events.values() for line in path.read_text().splitlines()]
    answers = sorted(each["status"] for each in told if each["event"] == "reported")
    assert answers == ["accepted", "accepted", "accepted", "duplicate"]


def test_a_seed_always_gives_the_same_schedule_and_ten_seeds_reach_every_phase() -> None:
    assert schedule(17) == schedule(17)
    assert schedule(17) != schedule(18)
    named = {
        crash.partition(":")[0] for seed in range(40, 50) for each in schedule(seed).crashes.values() for crash in each
    }
    assert named == set(CRASH_POINTS)


def lose_an_update(state: Path) -> None:
    with sqlite3.connect(state / "server.db") as database:
        database.execute("DELETE FROM updates WHERE assignment_id = (SELECT min(assignment_id) FROM updates)")


def weigh_an_update_twice(state: Path) -> None:
    with sqlite3.connect(state / "server.db") as database:
        database.execute("UPDATE updates SET examples = 2 * examples WHERE round_number = 2")


def move_an_adapter(state: Path) -> None:
    path = state / "adapters/round-0002/adapter_model.safetensors"
    tensors = load_file(path)
    tensors["bias"] = tensors["bias"] + np.float32(2e-6)
    save_file(tensors, path)


def leave_a_half(state: Path) -> None:
    (state / "blobs/.half.part").write_bytes(b"")


@pytest.mark.parametrize("damage", [lose_an_update, weigh_an_update_twice, move_an_adapter, leave_a_half])
def test_the_verdict_sees_what_it_is_there_for(
    undisturbed: FleetRun, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(undisturbed.state, tmp_path / "state", symlinks=True)
    copy = replace(undisturbed, state=tmp_path / "state")
    check_run(copy, undisturbed=undisturbed)
    damage(copy.state)
    with pytest.raises(AssertionError):
        check_run(copy, undisturbed=undisturbed)


def test_the_verdict_sees_an_update_that_was_acknowledged_twice(undisturbed: FleetRun, tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    again = {"event": "reported", "round_index": 1, "status": "accepted"}
    path.write_text(undisturbed.events["deep"].read_text() + json.dumps(again) + "\n")
    told_twice = replace(undisturbed, events={**undisturbed.events, "deep": path})
    with pytest.raises(AssertionError):
        check_run(told_twice, undisturbed=undisturbed)
