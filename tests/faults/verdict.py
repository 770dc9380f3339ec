"""What a run's adapters must be, computed from the accepted updates without a line of Quadloom's own aggregation."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file
from tests.faults.fleet import ROUNDS, FleetRun
from tests.faults.schedule import DEVICES

Tensors = dict[str, np.ndarray]
ACCEPTED = """
    SELECT updates.round_number, devices.name, updates.examples, updates.downloaded_bytes, updates.blob_sha256
    FROM updates JOIN devices ON devices.id = updates.device_id
"""


@dataclass(frozen=True)
class Accepted:
    """One update that the server says counts."""

    examples: int
    downloaded_bytes: int
    tensors: Tensors


def check_run(run: FleetRun, *, undisturbed: FleetRun) -> None:
    """Nothing lost, nothing doubled, and every number that of the run without faults."""
    accepted = accepted_updates(run)
    expected = accepted_updates(undisturbed)
    assert accepted.keys() == {(number, name) for number in range(1, ROUNDS + 1) for name in DEVICES}
    for key, each in expected.items():
        assert accepted[key].examples == each.examples
        assert accepted[key].downloaded_bytes == each.downloaded_bytes, "what came before a kill counts after it"
        _assert_same(accepted[key].tensors, each.tensors, f"update {key}")
    check_acknowledged(run)
    check_adapters(run, accepted)
    for number in range(ROUNDS + 1):
        _assert_same(adapter(run, number), adapter(undisturbed, number), f"adapter {number}")
    check_nothing_unfinished(run)


def accepted_updates(run: FleetRun) -> dict[tuple[int, str], Accepted]:
    """The updates in the server's own list, by round and device."""
    with sqlite3.connect(run.state / "server.db") as database:
        rows = database.execute(ACCEPTED).fetchall()
    assert len({row[:2] for row in rows}) == len(rows), f"counted twice: {rows}"
    return {
        (number, name): Accepted(examples, came, load_file(run.state / "blobs" / sha256[:2] / sha256))
        for number, name, examples, came, sha256 in rows
    }


def check_acknowledged(run: FleetRun) -> None:
    """What a device was told is counted is in the list, in each round once."""
    for path in run.events.values():
        events = [json.loads(line) for line in path.read_text().splitlines()]
        told = Counter(
            each["round_index"] for each in events if each["event"] == "reported" and each["status"] == "accepted"
        )
        assert all(count == 1 for count in told.values()), f"{path.name}: {told}"
        settled = {each["round_index"] for each in events if each["event"] == "reported"}
        assert settled <= set(range(1, ROUNDS + 1))
        assert not [each for each in events if each["event"] in ("failed", "out-of-memory", "refused")], path.name


def check_adapters(run: FleetRun, accepted: Mapping[tuple[int, str], Accepted]) -> None:
    """Each round: old value plus the mean, weighted by examples, over the devices that trained the tensor."""
    value = adapter(run, 0)
    for number in range(1, ROUNDS + 1):
        updates = [each for (of_round, _), each in accepted.items() if of_round == number]
        for name, old in value.items():
            trained = [each for each in updates if name in each.tensors]
            total = sum(each.examples for each in trained)
            change = sum(each.tensors[name].astype(np.float64) * (each.examples / total) for each in trained)
            value[name] = (old + change).astype(np.float32)
            np.testing.assert_allclose(adapter(run, number)[name], value[name], rtol=0, atol=1e-6)
            assert np.abs(change).max() > 1e-4, "the round must have moved something"


def check_nothing_unfinished(run: FleetRun) -> None:
    """Deaths leave no halves behind once everyone has been started again."""
    left = [str(path) for path in run.state.rglob("*.part")]
    assert not left, left


def adapter(run: FleetRun, number: int) -> Tensors:
    """The global tensors after a round."""
    return load_file(run.state / "adapters" / f"round-{number:04d}" / "adapter_model.safetensors")


def _assert_same(found: Tensors, expected: Tensors, what: str) -> None:
    assert found.keys() == expected.keys(), what
    for name, value in expected.items():
        assert np.array_equal(found[name], value), f"{what}: {name} differs by {np.abs(found[name] - value).max()}"
