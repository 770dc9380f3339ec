"""Fleets of mixed ranks and asynchronous ones, as real processes that are killed: every number is the dense one."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.faults.fleet import FleetRun, Ways, run_fleet
from tests.faults.schedule import UNDISTURBED, Schedule
from tests.faults.tiny_family import RANK, TABLE, write_family
from tests.faults.verdict import Tensors, adapter, check_nothing_unfinished

LOW_RANK = 24
MIXED = Ways(server={"--aggregation": "flexlora"}, devices={"shallow": {"--rank": LOW_RANK}})
ASYNCHRONOUS = Ways(
    server={"--largest-staleness": 2, "--min-updates": 1, "--rounds": 3}, devices={"shallow": {"--slowdown": 400}}
)
COUNTED = """
    SELECT updates.round_number, updates.started_round, assignments.rank, updates.examples, updates.blob_sha256
    FROM updates JOIN assignments ON assignments.id = updates.assignment_id
"""


@dataclass(frozen=True)
class Counted:
    """One update that the server says counts: what its device started from, and by how much it moved that."""

    round_number: int
    started_round: int
    rank: int
    examples: int
    start: Tensors
    change: Tensors

    @property
    def weight(self) -> float:
        return self.examples / (1 + np.sqrt(self.round_number - self.started_round))

    @property
    def trained(self) -> Tensors:
        return {name: self.start[name].astype(np.float64) + value for name, value in self.change.items()}


def counted_updates(run: FleetRun) -> list[Counted]:
    with sqlite3.connect(run.state / "server.db") as database:
        updates = database.execute(COUNTED).fetchall()
        ranked = database.execute("SELECT round_number, rank, sha256 FROM ranked_adapters").fetchall()

    def blob(sha256: str) -> Tensors:
        return load_file(run.state / "blobs" / sha256[:2] / sha256)

    low = {(number, rank): blob(sha256) for number, rank, sha256 in ranked}
    return [
        Counted(number, started, rank, examples, low.get((started - 1, rank), adapter(run, started - 1)), blob(sha256))
        for number, started, rank, examples, sha256 in updates
    ]


def products(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """``alpha / r B A`` of every pair, alpha being the family's rank."""
    return {
        name: RANK / value.shape[1] * value.astype(np.float64) @ tensors[name.replace("lora_B", "lora_A")]
        for name, value in tensors.items()
        if "lora_B" in name
    }


def nearest(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def mean(parts: list[tuple[float, np.ndarray]]) -> np.ndarray:
    found: np.ndarray = sum(weight * part for weight, part in parts) / sum(weight for weight, _ in parts)
    return found


def acknowledged(run: FleetRun) -> list[str]:
    """What devices were told of their updates."""
    events = [json.loads(line) for path in run.events.values() for line in path.read_text().splitlines()]
    assert not [each for each in events if each["event"] in ("failed", "out-of-memory", "refused")]
    return [each["status"] for each in events if each["event"] == "reported"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("ways") / "family")


@pytest.fixture(scope="module")
def mixed(family: Path, tmp_path_factory: pytest.TempPathFactory) -> FleetRun:
    return run_fleet(UNDISTURBED, family=family, work=tmp_path_factory.mktemp("mixed") / "run", ways=MIXED)


def test_a_fleet_of_mixed_ranks_makes_the_adapter_of_dense_products(mixed: FleetRun) -> None:
    updates = counted_updates(mixed)
    assert sorted((each.round_number, each.rank) for each in updates) == [(1, 24), (1, 96), (2, 24), (2, 96)]
    assert acknowledged(mixed) == ["accepted"] * 4
    for number in (1, 2):
        before, after = adapter(mixed, number - 1), adapter(mixed, number)
        assert {name: value.shape for name, value in after.items()} == {row.name: row.shape for row in TABLE}
        counted = [each for each in updates if each.round_number == number]
        (low,) = [each for each in counted if each.rank == LOW_RANK]
        for name, product in products(before).items():
            np.testing.assert_allclose(products(low.start)[name], nearest(product, LOW_RANK), rtol=0, atol=1e-5)
        for name, product in products(after).items():
            parts = [(each.weight, products(each.trained)[name]) for each in counted if name in each.change]
            np.testing.assert_allclose(product, nearest(mean(parts), RANK), rtol=0, atol=1e-5)
            assert np.abs(product - products(before)[name]).max() > 1e-4, "the round must have moved something"
        for name in ("weight", "bias"):
            moved = before[name] + mean([(each.weight, each.change[name]) for each in counted])
            np.testing.assert_allclose(after[name], moved, rtol=0, atol=1e-6)


def test_deaths_change_no_number_of_a_fleet_of_mixed_ranks(mixed: FleetRun, family: Path, tmp_path: Path) -> None:
    crashes = {
        "server": ("upload-stored-before-commit:1", "adapter-written-before-commit:1"),
        "shallow": ("download-half:2", "checkpoint-written:3"),
    }
    run = run_fleet(Schedule(None, crashes, ()), family=family, work=tmp_path / "run", ways=MIXED)
    assert sorted(run.died_at) == sorted(point.partition(":")[0] for each in crashes.values() for point in each)
    check_nothing_unfinished(run)
    assert len(counted_updates(run)) == 4
    for number in (1, 2):
        expected = adapter(mixed, number)
        for name, value in adapter(run, number).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=f"{number} {name}")


def test_late_updates_of_a_killed_fleet_count_once_and_for_less(family: Path, tmp_path: Path) -> None:
    crashes = {
        "server": ("update-counted-before-answer:2",),
        # In the middle of its work, while its round closes without it.
        "shallow": ("step-done-before-checkpoint:5",),
    }
    run = run_fleet(Schedule(None, crashes, ()), family=family, work=tmp_path / "run", ways=ASYNCHRONOUS)
    assert sorted(run.died_at) == sorted(point.partition(":")[0] for each in crashes.values() for point in each)
    check_nothing_unfinished(run)
    updates = counted_updates(run)
    late = [each for each in updates if each.started_round < each.round_number]
    assert late, "the slow device was never late"
    assert {each.round_number - each.started_round for each in late} <= {1, 2}
    assert {each.round_number for each in updates} == {1, 2, 3}
    assert len(acknowledged(run)) >= len(updates) >= 3
    for number in range(1, 4):
        before, after = adapter(run, number - 1), adapter(run, number)
        counted = [each for each in updates if each.round_number == number]
        for name, value in before.items():
            parts = [(each.weight, each.change[name].astype(np.float64)) for each in counted if name in each.change]
            np.testing.assert_allclose(after[name], value + mean(parts) if parts else value, rtol=0, atol=1e-6)
    assigned = [json.loads(line) for line in run.events["shallow"].read_text().splitlines()]
    ids = [each["assignment_id"] for each in assigned if each["event"] == "assigned"]
    assert len(ids) > len(set(ids)), "killed at work on an earlier round, it went on with the same assignment"
