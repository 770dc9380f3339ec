"""Fleets of mixed ranks out of a fleet file: a real server, real devices."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

PATIENCE_S = 120.0
DEVICES = """
[[device]]
profile = "laptop"
name = "full"

[[device]]
profile = "laptop"
name = "low"
rank = 2
"""


def emulate(
    folder: Path, family: Path, text: Path, task: str, *, devices: str = DEVICES
) -> subprocess.CompletedProcess[str]:
    fleet = folder / "fleet.toml"
    fleet.write_text(
        f'[task]\nfamily = "{family}"\nrounds = 2\nmax_steps = 4\n{task}\n'
        f'[data]\ntrain = "{text / "train.jsonl"}"\neval = "{text / "eval.jsonl"}"\n{devices}'
    )
    words = [sys.executable, "-m", "quadloom_runtime", "emulate", "--fleet", str(fleet), "--work", str(folder / "work")]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment)


@pytest.mark.parametrize("aggregation", ["flexlora", "fedavg"])
def test_devices_of_several_ranks_train_one_adapter_of_the_familys(
    tmp_path: Path, tiny_family: Path, separable_text: Path, aggregation: str
) -> None:
    done = emulate(tmp_path, tiny_family, separable_text, f'aggregation = "{aggregation}"\nlargest_staleness = 1')
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in re.split("[│┃|]", line)[1:-1]] for line in done.stdout.splitlines()]
    assert {row[0]: row[3] for row in rows if row[0:1] in (["full-1"], ["low-1"]) and len(row) == 10} == {
        "full-1": "4",
        "low-1": "2",
    }
    lines = (tmp_path / "work/events/low-1.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines) if event["event"] in ("assigned", "reported")]
    assert {event["rank"] for event in told if event["event"] == "assigned"} == {2}
    assert "accepted" in [event["status"] for event in told if event["event"] == "reported"]
    start = load_file(tiny_family / "adapter/adapter_model.safetensors")
    adapter = load_file(tmp_path / "work/server/adapters/latest/adapter_model.safetensors")
    assert {name: value.shape for name, value in adapter.items()} == {n: value.shape for n, value in start.items()}
    assert json.loads((tmp_path / "work/server/adapters/latest/adapter_config.json").read_text())["r"] == 4


def test_a_rank_above_the_familys_ends_its_device_with_the_cause(
    tmp_path: Path, tiny_family: Path, separable_text: Path
) -> None:
    done = emulate(tmp_path, tiny_family, separable_text, "", devices=DEVICES.replace("rank = 2", "rank = 6"))
    assert done.returncode == 1
    assert "rank 6 of an adapter of rank 4" in " ".join(done.stdout.split())
    assert "low-1" in done.stderr
