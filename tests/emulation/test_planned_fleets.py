"""Whole fleets under a planner: a real server, a fast and a slow device as real processes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 240.0
ROUNDS = 4
DEVICES = """
[[device]]
profile = "laptop"
name = "fast"

[[device]]
profile = "laptop"
name = "slow"
slowdown = 40.0
"""


def run_fleet(folder: Path, family: Path, text: Path, *, planner: str, more: str = "", devices: str = DEVICES) -> str:
    """Run `quadloom emulate` in `folder / "work"` and return what it printed."""
    fleet = folder / "fleet.toml"
    fleet.write_text(
        f'[task]\nfamily = "{family}"\nrounds = {ROUNDS}\nplanner = "{planner}"\nmax_steps = 4\n{more}'
        f'[data]\ntrain = "{text / "train.jsonl"}"\neval = "{text / "eval.jsonl"}"\n' + devices
    )
    ended = subprocess.run(
        [sys.executable, "-m", "quadloom_runtime", "emulate", "--fleet", str(fleet), "--work", str(folder / "work")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def rounds_trained(folder: Path, device: str) -> list[int]:
    lines = (folder / "work" / "events" / f"{device}.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [each["round_index"] for each in events if each["event"] == "reported" and each["status"] == "accepted"]


def cells(output: str, device: str) -> list[list[str]]:
    """The device's rows of the tables of each round: member, expected, real and waited seconds, why."""
    rows = [[cell.strip() for cell in re.split("[│┃|]", line)[2:-1]] for line in output.splitlines()]
    names = [[cell.strip() for cell in re.split("[│┃|]", line)[1:2]] for line in output.splitlines()]
    return [row for row, name in zip(rows, names, strict=True) if name == [f"{device}-1"] and len(row) == 5]


def test_by_deadline_the_slow_device_sits_out_until_its_turn_and_nobody_waits_for_it(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    output = run_fleet(tmp_path, tiny_family, separable_text, planner="deadline")
    assert rounds_trained(tmp_path, "fast-1") == [1, 2, 3, 4]
    assert rounds_trained(tmp_path, "slow-1") == [4]
    fast, slow = cells(output, "fast"), cells(output, "slow")
    assert [row[0] for row in slow[:3]] == ["-"] * 3
    assert all(row[0].startswith("d0") and float(row[1]) >= 0 and float(row[2]) > 0 for row in fast)
    assert slow[3][0].startswith("d0")
    # A device is told when it asks; while it starts, the first round may be over.
    told = set(re.findall(r"round (\d): slow-1 has no work: sits out: takes at least", output))
    assert told | {"1"} == {"1", "2", "3"}
    for number in range(1, 4):
        assert f"round {number} (deadline): devices waited 0.0 s (0 %) for the slowest; with depth 1" in output


def test_by_memory_alone_every_device_trains_its_deepest_in_every_round_and_the_fast_one_waits(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    output = run_fleet(tmp_path, tiny_family, separable_text, planner="deepest")
    assert rounds_trained(tmp_path, "fast-1") == rounds_trained(tmp_path, "slow-1") == [1, 2, 3, 4]
    for name in ("fast", "slow"):
        rows = cells(output, name)
        assert [row[0] for row in rows] == ["d01-q00-r03"] * ROUNDS
        assert all(row[4].startswith("deepest that fits") for row in rows)
    waited = re.findall(r"round \d \(deepest\): devices waited (\d+\.\d) s", output)
    assert len(waited) == ROUNDS
    log = (tmp_path / "work" / "logs" / "server.log").read_text()
    assert len(re.findall(r"slow-1 update accepted .* expected \d+\.\d s\)", log)) == ROUNDS


def test_with_one_place_each_kind_of_devices_has_its_turn_and_the_slower_not_more_of_them(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    more = 'min_updates = 1\nlargest_staleness = 4\ndevices_per_round = 1\nselection = "in-turn"\n'
    devices = DEVICES.replace('"laptop"', '"raspberry-pi-5"', 1)
    output = run_fleet(tmp_path, tiny_family, separable_text, planner="deepest", more=more, devices=devices)
    trained = {name: rounds_trained(tmp_path, f"{name}-1") for name in ("fast", "slow")}
    assert sorted(trained["fast"] + trained["slow"]) == list(range(1, ROUNDS + 1)), output
    assert {1, 2}.intersection(trained["fast"]), "whoever has not trained yet is next"
    assert {1, 2}.intersection(trained["slow"]), "whoever has not trained yet is next"
    assert len(trained["fast"]) >= len(trained["slow"]), "they share the time, not the rounds"


def test_an_unknown_planner_ends_the_fleet_with_the_names_that_there_are(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    with pytest.raises(AssertionError, match="no planner is called 'quickest'"):
        run_fleet(tmp_path, tiny_family, separable_text, planner="quickest")


def test_who_has_a_slow_link_is_given_a_lower_rank_and_trains_at_it(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    devices = DEVICES.replace("slowdown = 40.0", "link_mbps = 0.05")
    run_fleet(tmp_path, tiny_family, separable_text, planner="deadline-ranks", devices=devices)
    events = [json.loads(line) for line in (tmp_path / "work" / "events" / "slow-1.jsonl").read_text().splitlines()]
    ranks = [each["rank"] for each in events if each["event"] == "assigned"]
    assert ranks
    assert min(ranks) < 4
    assert rounds_trained(tmp_path, "slow-1")
