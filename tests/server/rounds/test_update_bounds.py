"""What an update may claim, how far it may move the model, and how long it is kept."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from quadloom_runtime.contract.wire import Capabilities, TrainingSettings
from quadloom_server.rounds.bounds import update_bounds
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.queries import accepted_updates

MakeTask = Callable[..., Any]


def stored_updates(task: Any) -> set[str]:
    """Hashes of the update files in the state folder."""
    names = {path.name for path in (task.state_folder / "blobs").glob("??/*")}
    return names - {task.family.manifest_sha256}


@pytest.mark.parametrize(
    ("policy", "changed", "cause"),
    [
        ({}, {"examples": 101}, "claims 101 examples, at most 100 are"),
        ({"max_examples_per_update": 20}, {"examples": 101}, "claims 101 examples, at most 100 are"),
        ({}, {"change": 0.5, "steps": 51}, "claims 51 steps, at most 50 are"),
        ({"max_update_norm": 1.0}, {"change": 0.5}, r"has the L2 norm 6\.\d+, more than 1"),
    ],
)
def test_more_than_possible_is_rejected_with_the_figures(
    make_task: MakeTask, update_content: Any, policy: dict[str, Any], changed: dict[str, Any], cause: str
) -> None:
    task = make_task(**policy)
    (device,) = task.enrol("device")
    mine = task.assignment(device)
    rows = task.family.manifest.trained_parameters(mine.member.depth)
    report = {name: value for name, value in changed.items() if name != "change"}
    tensors = {row.name: np.full(row.shape, changed.get("change", 0.1), np.float32) for row in rows}
    answer = task.report(mine.assignment_id, update_content(tensors, report=report))
    assert answer.status == "rejected"
    assert re.search(cause, answer.reason), answer.reason
    assert stored_updates(task) == set()


def test_bounds_follow_from_what_the_device_has_and_was_asked_to_do() -> None:
    capabilities = Capabilities(formats=("onnx",), memory_limit_bytes=1, threads=1, examples=25)
    found = update_bounds(RoundPolicy(), TrainingSettings(epochs=3, accumulation=2), capabilities, batch_size=4)
    # A report counts different examples, however often the device passes over them.
    assert (found.examples, found.steps, found.norm) == (25, 12, None)
    found = update_bounds(
        RoundPolicy(max_update_norm=2.0),
        TrainingSettings(epochs=3, max_steps=5),
        capabilities,
        batch_size=4,
    )
    assert (found.examples, found.steps, found.norm) == (25, 5, 2.0)


def test_clipping_scales_a_large_update_and_the_aggregate_follows_from_the_stored_updates(make_task: MakeTask) -> None:
    bound = 0.75
    task = make_task(min_devices=2, min_updates=2, clip_update_norm=bound, keep_updates=True)
    large, small = task.enrol("large", "small")
    for device, change, examples in ((large, 3.0, 30), (small, 0.01, 10)):
        mine = task.assignment(device)
        assert task.report(mine.assignment_id, task.content(mine, change, examples=examples)).status == "accepted"
    task.run_background()
    before, after = task.parameters(0), task.parameters(1)
    with task.state.sessions() as session:
        counted = accepted_updates(session, 1)
    assert [each.clip_norm for each in counted] == [bound, bound]
    moved = {name: np.zeros(value.shape) for name, value in before.items()}
    for each in counted:
        tensors = load(task.state.blobs.path(each.blob_sha256).read_bytes())
        norm = np.linalg.norm(np.concatenate([value.astype(np.float64).ravel() for value in tensors.values()]))
        for name, value in tensors.items():
            moved[name] += each.examples / 40 * min(1.0, bound / norm) * value.astype(np.float64)
    for name, value in after.items():
        np.testing.assert_allclose(value, before[name] + moved[name], rtol=1e-6, atol=1e-6)


def test_an_update_counts_under_the_bounds_of_its_time(make_task: MakeTask) -> None:
    task = make_task(min_devices=2, min_updates=2)
    first, second = task.enrol("first", "second")
    mine, other = task.assignment(first), task.assignment(second)
    assert task.report(mine.assignment_id, task.content(mine, 1.0)).status == "accepted"
    task.policy = RoundPolicy(min_devices=2, min_updates=2, max_update_norm=0.001)
    task.restart()
    assert task.report(other.assignment_id, task.content(other, 0.0)).status == "accepted"
    task.run_background()
    bias = "base_model.model.classifier.bias"
    np.testing.assert_allclose(task.parameters(1)[bias] - task.parameters(0)[bias], 0.5, atol=1e-6)


def test_updates_are_removed_once_their_round_is_closed_and_not_before(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=2)
    first, second = task.enrol("first", "second")
    for device, change in ((first, 1.0), (second, 2.0)):
        mine = task.assignment(device)
        task.report(mine.assignment_id, task.content(mine, change))
    assert len(stored_updates(task)) == 2
    task.run_background()
    assert stored_updates(task) == set()


def test_content_that_an_open_round_counts_too_survives_the_closed_one(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=2)
    first, second = task.enrol("first", "second")
    for device in (first, second):
        mine = task.assignment(device)
        task.report(mine.assignment_id, task.content(mine, 1.0))
    task.run_background()
    mine = task.assignment(first)
    content = task.content(mine, 1.0)
    task.report(mine.assignment_id, content)
    task.restart()
    assert len(stored_updates(task)) == 1
    other = task.assignment(second)
    task.report(other.assignment_id, task.content(other, 1.0))
    task.run_background()
    assert task.rounds.task_status().state == "finished"


def test_what_a_killed_server_stored_but_never_counted_is_removed_at_start(make_task: MakeTask) -> None:
    task = make_task(keep_updates=True)
    (device,) = task.enrol("device")
    mine = task.assignment(device)
    task.report(mine.assignment_id, task.content(mine, 1.0))
    counted = stored_updates(task)
    task.state.blobs.put(b"stored, then the power went")
    (task.state_folder / "uploads" / "half").write_bytes(b"half of an update")
    task.restart()
    assert stored_updates(task) == counted
    assert list((task.state_folder / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"max_update_norm": 0.0}, {"clip_update_norm": float("inf")}, {"max_examples_per_update": -1}]
)
def test_bounds_that_bound_nothing_are_refused(wrong: dict[str, Any]) -> None:
    from quadloom_runtime.errors import QuadloomError

    with pytest.raises(QuadloomError, match=next(iter(wrong))):
        RoundPolicy(**wrong)


def test_a_device_with_more_examples_than_may_count_takes_part_and_counts_no_more(make_task: MakeTask) -> None:
    task = make_task(rounds=2, min_devices=2, min_updates=2, max_examples_per_update=20)
    devices = task.enrol("rich", "poor")
    for device, examples, change in zip(devices, (100, 20), (1.0, 0.0), strict=True):
        mine = task.assignment(device)
        assert task.report(mine.assignment_id, task.content(mine, change, examples=examples)).status == "accepted"
    task.run_background()
    moved = [task.parameters(1)[name] - value for name, value in task.parameters(0).items()]
    assert np.concatenate([each.ravel() for each in moved]) == pytest.approx(0.5, abs=1e-6)
