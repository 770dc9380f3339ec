"""What the server's optimizer keeps from round to round outlives every stop, and is believed only as it was written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.errors import QuadloomError
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.tables import Round

MakeTask = Callable[..., Any]
HEAD = "base_model.model.classifier.bias"
CHANGES = (1.0, 4.0, -2.0, 3.0)


def contribute(task: Any, device: str, change: float) -> None:
    mine = task.assignment(device)
    assert task.report(mine.assignment_id, task.content(mine, change)).status == "accepted"


def fed_adam(changes: tuple[float, ...], *, rate: float) -> list[float]:
    """Algorithm 2 of arXiv 2003.00295 on one number, written down again; the sum of steps after each round."""
    mean, square, place, found = 0.0, 1e-6, 0.0, []
    for change in changes:
        mean = 0.9 * mean + 0.1 * change
        square = 0.99 * square + 0.01 * change**2
        place += rate * mean / (np.sqrt(square) + 1e-3)
        found.append(place)
    return found


def moments_path(task: Any, number: int) -> Path:
    with task.state.sessions() as session:
        sha256 = session.get_one(Round, number).moments_sha256
    assert sha256 is not None
    return Path(task.state.blobs.path(sha256))


@pytest.mark.parametrize("stops", [False, True])
def test_adam_remembers_every_round_however_often_the_server_stops(make_task: MakeTask, stops: bool) -> None:
    task = make_task(rounds=4, server_optimizer="fedadam", server_learning_rate=0.1)
    (device,) = task.enrol("phone")
    start = float(task.parameters(0)[HEAD][0])
    for number, (change, expected) in enumerate(zip(CHANGES, fed_adam(CHANGES, rate=0.1), strict=True), 1):
        contribute(task, device, change)
        if stops:
            task.restart()
        task.run_background()
        assert task.parameters(number)[HEAD][0] - start == pytest.approx(expected, abs=1e-5)
        if stops:
            task.restart()


def test_momentum_adds_up_what_rounds_agree_on(make_task: MakeTask) -> None:
    task = make_task(rounds=2, server_optimizer="fedavg-momentum", server_learning_rate=0.5)
    (device,) = task.enrol("phone")
    start = float(task.parameters(0)[HEAD][0])
    for _ in range(2):
        contribute(task, device, 2.0)
        task.run_background()
    assert task.parameters(2)[HEAD][0] - start == pytest.approx(0.5 * 2.0 + 0.5 * (0.8 * 2.0 + 2.0), abs=1e-5)


def test_only_what_the_last_closed_round_left_is_kept(make_task: MakeTask) -> None:
    task = make_task(rounds=3, server_optimizer="fedadam")
    (device,) = task.enrol("phone")
    paths = []
    for number in (1, 2):
        contribute(task, device, 1.0)
        task.run_background()
        paths.append(moments_path(task, number))
    assert [path.is_file() for path in paths] == [False, True]


def test_what_was_altered_is_refused(make_task: MakeTask) -> None:
    task = make_task(rounds=3, server_optimizer="fedadam")
    (device,) = task.enrol("phone")
    contribute(task, device, 1.0)
    task.run_background()
    path = moments_path(task, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"\x40")
    contribute(task, device, 1.0)
    with pytest.raises(QuadloomError, match="does not have the content") as caught:
        task.run_background()
    assert "restore the state folder" in caught.value.remedy


def test_another_optimizer_begins_with_nothing(make_task: MakeTask) -> None:
    task = make_task(rounds=3, server_optimizer="fedavg-momentum", server_learning_rate=0.5)
    (device,) = task.enrol("phone")
    contribute(task, device, 2.0)
    task.run_background()
    before = float(task.parameters(1)[HEAD][0])
    task.policy = RoundPolicy(rounds=3, server_optimizer="fedadam", server_learning_rate=0.1)
    task.restart()
    contribute(task, device, 2.0)
    task.run_background()
    assert task.parameters(2)[HEAD][0] - before == pytest.approx(fed_adam((2.0,), rate=0.1)[0], abs=1e-5)


def test_an_altered_mean_of_rounds_is_refused(make_task: MakeTask) -> None:
    task = make_task(rounds=3, mean_share=0.5)
    (device,) = task.enrol("phone")
    contribute(task, device, 1.0)
    task.run_background()
    path = task.state_folder / "adapters/round-0001-mean/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x40")
    contribute(task, device, 1.0)
    with pytest.raises(QuadloomError, match=r"round-0001-mean.* does not have the content"):
        task.run_background()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"server_optimizer": "adam"}, "fedavg-momentum, fedadam"),
        ({"server_optimizer": "fedadam", "server_decay_rounds": 9}, "leave server_decay_rounds out"),
    ],
)
def test_what_is_no_rule_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(QuadloomError) as caught:
        RoundPolicy(**given)
    assert named in caught.value.remedy


def test_adam_is_refused_where_factors_are_made_anew_each_round(make_task: MakeTask) -> None:
    with pytest.raises(QuadloomError, match="new basis each round"):
        make_task(aggregation="flexlora", server_optimizer="fedadam")
