"""A member's recompute budget goes with its assignment wherever that goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import FailureReport

KEY = MemberKey(depth=2, quantized_layers=0, recompute_percent=30)


@pytest.fixture
def family_folder(tmp_path: Path, write_family: Callable[..., Path]) -> Path:
    return write_family(tmp_path / "family", recompute_percent=30)


def test_an_open_assignment_of_a_budget_is_handed_out_again_after_a_restart(make_task: Callable[..., Any]) -> None:
    task = make_task()
    (device,) = task.enrol("phone")
    first = task.assignment(device)
    assert first.member == KEY
    assert first.blobs[0].path == "onnx/train-d02-q00-r30.onnx"
    task.restart()
    assert task.assignment(device) == first


def test_a_member_of_a_budget_that_ran_out_of_memory_is_not_given_again(make_task: Callable[..., Any]) -> None:
    task = make_task()
    (device,) = task.enrol("phone")
    failure = FailureReport(kind="out-of-memory", message="it does not fit")
    assert task.rounds.report_failure(task.assignment(device).assignment_id, failure).status == "accepted"
    assert task.assignment(device).member.label == "d02-q01-r30"
