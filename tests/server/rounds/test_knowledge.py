"""What stored reports say of a device."""

from collections.abc import Callable
from typing import Any

import pytest

from quadloom_server.planning.cost_model import reference_costs
from quadloom_server.planning.round_plan import PlannedDevice
from quadloom_server.rounds.knowledge import planned_devices
from quadloom_server.store.tables import Device

MakeTask = Callable[..., Any]


def known(task: Any, device: str, *, round_number: int) -> PlannedDevice:
    with task.state.sessions() as session:
        (found,) = planned_devices(
            session,
            [session.get_one(Device, device)],
            round_number=round_number,
            manifest=task.family.manifest,
            references=reference_costs(task.family.manifest),
            settings=task.settings,
        )
    return found


def test_a_device_is_as_fast_as_before_when_steps_get_larger(make_task: MakeTask) -> None:
    """A report counts optimizer steps; of how many batches each was is written in its assignment."""
    task = make_task(rounds=9)
    (device,) = task.enrol("device")
    for _ in range(3):
        mine = task.assignment(device)
        task.report(mine.assignment_id, task.content(mine, 0.0, report={"steps": 50, "train_s": 100.0}))
        task.run_background()
    before = known(task, device, round_number=4)
    task.settings = task.settings.model_copy(update={"accumulation": 8})
    task.restart()
    after = known(task, device, round_number=4)
    assert before.cost.slowdown > 1.5, "it is far slower than it says"
    assert after.cost.slowdown == pytest.approx(before.cost.slowdown)
