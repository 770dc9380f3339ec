"""A server that is started again with other training settings: work that was handed out stays as it was."""

from collections.abc import Callable
from typing import Any

from quadloom_runtime.contract.wire import TrainingSettings

MakeTask = Callable[..., Any]


def restarted(make_task: MakeTask, settings: TrainingSettings) -> tuple[Any, str, Any]:
    """A task that was started again with these settings while a device was at work; with it its assignment."""
    task = make_task(rounds=2)
    (device,) = task.enrol("device")
    mine = task.assignment(device)
    task.settings = settings
    task.restart()
    return task, device, mine


def test_work_that_is_handed_out_again_has_the_settings_that_it_was_begun_with(make_task: MakeTask) -> None:
    task, device, mine = restarted(make_task, TrainingSettings(seed=8, max_steps=3, learning_rate=1.0))
    assert task.assignment(device) == mine


def test_an_honest_update_of_before_counts_and_the_next_round_has_the_new_settings(make_task: MakeTask) -> None:
    task, device, mine = restarted(make_task, TrainingSettings(seed=7, max_steps=3))
    answer = task.report(mine.assignment_id, task.content(mine, 0.1, examples=100, report={"steps": 50}))
    assert answer.status == "accepted", answer.reason
    task.run_background()
    assert task.assignment(device).settings == TrainingSettings(seed=7 + 2, max_steps=3)
