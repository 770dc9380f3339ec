"""What a round gave is read back only as it was written, and `latest` leads to it whenever the server was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadloom_runtime.errors import QuadloomError
from quadloom_server.adapters import AdapterFolders

MakeTask = Callable[..., Any]


class Killed(BaseException):
    """Ends everything, as a kill does."""


def killed_before(monkeypatch: pytest.MonkeyPatch, *target: Any) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(*target, die)


def contribute(task: Any, device: str) -> None:
    mine = task.assignment(device)
    assert task.report(mine.assignment_id, task.content(mine, 0.5)).status == "accepted"


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x40  # a float32 that is finite, and far larger
    path.write_bytes(content)


def latest(task: Any) -> str:
    return str((task.state_folder / "adapters/latest").resolve(strict=True).name)


@pytest.mark.parametrize("closed_rounds", [0, 1])
def test_an_adapter_that_was_altered_while_it_was_served_is_not_built_on(
    make_task: MakeTask, closed_rounds: int
) -> None:
    task = make_task(rounds=3, evaluator=None)
    (device,) = task.enrol("device")
    for _ in range(closed_rounds):
        contribute(task, device)
        task.run_background()
    alter(task.state.adapters.tensors_path(closed_rounds))
    contribute(task, device)
    with pytest.raises(QuadloomError, match=f"round-000{closed_rounds}.* does not have the content") as caught:
        task.run_background()
    assert "restore the state folder" in caught.value.remedy


def test_an_altered_or_missing_adapter_is_refused_when_the_server_starts_again(make_task: MakeTask) -> None:
    task = make_task(rounds=3)
    (device,) = task.enrol("device")
    contribute(task, device)
    task.run_background()
    path = task.state.adapters.tensors_path(1)
    alter(path)
    with pytest.raises(QuadloomError, match="does not have the content"):
        task.restart()
    path.unlink()
    with pytest.raises(QuadloomError, match="is missing"):
        task.restart()


def test_a_start_that_was_killed_before_latest_was_there_is_made_good_by_the_next(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before(monkeypatch, AdapterFolders, "point_latest")
    with pytest.raises(Killed):
        make_task()
    monkeypatch.undo()
    assert latest(make_task()) == "round-0000"


@pytest.mark.parametrize(("mean_share", "shown"), [(0.0, "round-0001"), (0.5, "round-0001-mean")])
def test_latest_leads_to_the_last_closed_round_after_a_kill_in_the_next(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, mean_share: float, shown: str
) -> None:
    task = make_task(rounds=3, mean_share=mean_share)
    (device,) = task.enrol("device")
    contribute(task, device)
    task.run_background()
    assert latest(task) == shown
    contribute(task, device)
    killed_before(monkeypatch, "quadloom_server.rounds.machine.close_round")
    with pytest.raises(Killed):
        task.run_background()
    monkeypatch.undo()
    leftover = task.state_folder / "adapters/.latest.part"
    leftover.symlink_to("nowhere")
    task.restart()
    assert latest(task) == shown
    assert not leftover.is_symlink()
    task.run_background()
    assert latest(task) == shown.replace("1", "2")
