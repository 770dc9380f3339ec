"""What the server makes of a round's mean change: a share of it, and a mean of rounds to show."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.errors import QuadloomError
from quadloom_server.rounds.policy import RoundPolicy

MakeTask = Callable[..., Any]
HEAD = "base_model.model.classifier.bias"


def contribute(task: Any, device: str, change: float) -> None:
    mine = task.assignment(device)
    assert task.report(mine.assignment_id, task.content(mine, change)).status == "accepted"


def shown(task: Any) -> float:
    """What is given out after the last round."""
    latest = (task.state_folder / "adapters/latest").resolve().name
    number, mean = int(latest.split("-")[1]), latest.endswith("-mean")
    read = task.state.adapters.read_mean if mean else task.state.adapters.read
    return float(read(number)[HEAD][0])


def test_the_server_takes_the_share_of_a_change_that_it_is_told_to(make_task: MakeTask) -> None:
    task = make_task(rounds=2, server_learning_rate=0.25)
    (device,) = task.enrol("phone")
    for number in (1, 2):
        before = task.parameters(number - 1)
        contribute(task, device, 2.0)
        task.run_background()
        for name, value in task.parameters(number).items():
            np.testing.assert_allclose(value - before[name], 0.5, rtol=0, atol=1e-6, err_msg=name)


def test_it_takes_less_from_round_to_round_if_it_is_told_how_fast(make_task: MakeTask) -> None:
    task = make_task(rounds=2, server_learning_rate=0.5, server_decay_rounds=0.5)
    (device,) = task.enrol("phone")
    for number, share in ((1, 0.5 / np.sqrt(3)), (2, 0.5 / np.sqrt(5))):
        before = float(task.parameters(number - 1)[HEAD][0])
        contribute(task, device, 2.0)
        task.run_background()
        assert task.parameters(number)[HEAD][0] - before == pytest.approx(2.0 * share, abs=1e-6)


def test_devices_start_from_the_newest_and_the_mean_is_judged_and_given_out(make_task: MakeTask) -> None:
    task = make_task(rounds=4, mean_share=0.75)
    (device,) = task.enrol("phone")
    start = float(task.parameters(0)[HEAD][0])
    expected = []
    for number, change in enumerate((1.0, 4.0, -2.0, 3.0), 1):
        mine = task.assignment(device)
        assert mine.adapter.sha256 == task.state.adapters.reference(number - 1).sha256
        contribute(task, device, change)
        task.run_background()
        newest = start + sum((1.0, 4.0, -2.0, 3.0)[:number])
        assert task.parameters(number)[HEAD][0] == pytest.approx(newest, abs=1e-5)
        expected.append(newest if number == 1 else expected[-1] + (newest - expected[-1]) / (0.75 * number))
        assert shown(task) == pytest.approx(expected[-1], abs=1e-5)
    evaluations = [each.evaluation.accuracy for each in task.rounds.task_status().rounds]
    assert evaluations == pytest.approx([1 / (1 + np.exp(-value)) for value in expected], abs=1e-6)
    assert (task.state_folder / "adapters/latest/adapter_config.json").is_file()


def test_a_server_that_is_killed_while_it_closes_a_round_shows_the_same(make_task: MakeTask) -> None:
    task = make_task(rounds=3, mean_share=0.9, server_learning_rate=0.5, server_decay_rounds=2)
    (device,) = task.enrol("phone")
    for change in (1.0, 3.0):
        contribute(task, device, change)
        task.run_background()
    contribute(task, device, 5.0)
    task.jobs.pop(0)()  # the round is closed, but the process dies before anybody hears of it
    first = shown(task)
    task.restart()
    task.run_background()
    assert shown(task) == first
    assert task.rounds.is_finished()


def test_a_mean_begun_late_begins_with_the_round_before(make_task: MakeTask) -> None:
    task = make_task(rounds=9)
    (device,) = task.enrol("phone")
    for change in (1.0, 3.0):
        contribute(task, device, change)
        task.run_background()
    second = float(task.parameters(2)[HEAD][0])
    task.policy = RoundPolicy(rounds=9, mean_share=0.8)
    task.restart()
    contribute(task, device, 4.0)
    task.run_background()
    assert shown(task) == pytest.approx(second + 4.0 / (0.8 * 3), abs=1e-5)


@pytest.mark.parametrize("given", [{"server_learning_rate": 0.5}, {"server_decay_rounds": 9}, {"mean_share": 0.5}])
def test_what_adds_up_rounds_is_refused_where_factors_are_made_anew_each_round(
    make_task: MakeTask, given: dict[str, float]
) -> None:
    with pytest.raises(QuadloomError, match="new basis each round") as refused:
        make_task(aggregation="flexlora", **given)
    assert "a method that averages A and B" in refused.value.remedy


@pytest.mark.parametrize(
    "given",
    [
        *({"server_learning_rate": value} for value in (0.0, 1.5, float("nan"))),
        *({"mean_share": value} for value in (-0.1, 1.0, float("nan"))),
        *({"server_decay_rounds": value} for value in (0.0, float("inf"))),
    ],
)
def test_a_share_that_is_none_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(QuadloomError, match=f"{next(iter(given))} is"):
        RoundPolicy(**given)  # type: ignore[arg-type]
