"""The training process and the agent that waits for it; the process is a real one that is killed."""

import os
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from quadloom_runtime.contract.wire import FailureReport
from quadloom_runtime.device import training_process
from quadloom_runtime.device.training_process import Stepped, train_in_process

STEPPED = Stepped(step=1, steps=2, loss=0.5, peak_step_bytes=1000)


class Job:
    """All that is asked of a job before its process has begun to train."""

    class Member:
        label = "d02-q00"

    member = Member()


def killed_in_the_middle_of_a_message(_job: Any, connection: Connection) -> None:
    """What a child looks like that the system ends for its memory while it sends its result."""
    connection.send(STEPPED)
    os.write(connection.fileno(), struct.pack("!i", 1000) + b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)


def killed_before_it_says_anything(_job: Any, _connection: Connection) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("work", [killed_in_the_middle_of_a_message, killed_before_it_says_anything])
def test_a_process_that_is_killed_whatever_it_was_sending_is_reported_as_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, work: Callable[..., None]
) -> None:
    monkeypatch.setattr(training_process, "_work", work)
    failure = train_in_process(Job(), on_step=lambda _: None)  # type: ignore[arg-type]
    assert isinstance(failure, FailureReport)
    assert failure.kind == "out-of-memory"
    assert "the system killed the training process" in failure.message


def test_what_goes_wrong_with_telling_of_a_step_is_not_taken_for_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def disk_is_full(_stepped: Stepped) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(training_process, "_work", killed_in_the_middle_of_a_message)
    with pytest.raises(OSError, match="no space left"):
        train_in_process(Job(), on_step=disk_is_full)  # type: ignore[arg-type]
