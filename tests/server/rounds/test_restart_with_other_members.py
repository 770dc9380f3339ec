"""A family may be measured anew while the server is down: what is planned and begun must fit by the new figures."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

MakeTask = Callable[..., Any]
LIMIT_BYTES = 80_000_000  # d02-q00 needs 70 MB, as planned


def measured_anew(task: Any, label: str, peak_bytes: int) -> None:
    """Start the server again with a measured peak of one member."""
    manifest = task.family.manifest
    members = tuple(
        each.model_copy(update={"measured_peak_bytes": peak_bytes}) if each.key.label == label else each
        for each in manifest.members
    )
    task.family = replace(task.family, manifest=manifest.model_copy(update={"members": members}))
    task.restart()


@pytest.mark.parametrize("begun", [False, True], ids=["planned", "begun"])
@pytest.mark.parametrize("planner", ["deepest", "deadline"])
def test_what_does_not_fit_by_a_new_measurement_is_not_given(make_task: MakeTask, planner: str, begun: bool) -> None:
    task = make_task(planner=planner, rounds=2)
    (device,) = task.enrol("device", memory_limit_bytes=LIMIT_BYTES)
    before = task.assignment(device) if begun else None
    task.rounds.tick()
    measured_anew(task, "d02-q00", 90_000_000)
    after = task.assignment(device)
    assert after.member.label == "d02-q01"
    assert before is None or before.member.label == "d02-q00"


def test_what_still_fits_is_gone_on_with(make_task: MakeTask) -> None:
    task = make_task(rounds=2)
    (device,) = task.enrol("device", memory_limit_bytes=LIMIT_BYTES)
    before = task.assignment(device)
    measured_anew(task, "d02-q00", 70_000_000)
    assert task.assignment(device).assignment_id == before.assignment_id
