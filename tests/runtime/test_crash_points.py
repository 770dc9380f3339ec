"""A crash point kills at once, at the visit that is named, and otherwise does nothing."""

import os
import signal
import subprocess
import sys

import pytest

from quadloom_runtime.crash_points import VARIABLE

VISITS = """
from quadloom_runtime.crash_points import reach
for turn in range(3):
    print(turn, flush=True)
    reach("checkpoint-written")
    print("held back", end="")
"""


def run(code: str, crash_at: str | None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **({VARIABLE: crash_at} if crash_at else {})}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def test_the_named_visit_kills_without_flushing_anything() -> None:
    ended = run(VISITS, "checkpoint-written:2")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "0\nheld back1\n"


@pytest.mark.parametrize("crash_at", [None, "checkpoint-written:4", "update-half-written:1"])
def test_other_points_other_visits_and_no_variable_do_nothing(crash_at: str | None) -> None:
    ended = run(VISITS, crash_at)
    assert ended.returncode == 0
    assert ended.stdout.startswith("0\n")


@pytest.mark.parametrize("crash_at", ["nowhere:1", "checkpoint-written", "checkpoint-written:x"])
def test_what_is_no_crash_point_is_refused_by_value(crash_at: str) -> None:
    ended = run(VISITS, crash_at)
    assert ended.returncode == 1
    assert f"{VARIABLE} is '{crash_at}'" in ended.stderr


def test_a_training_process_takes_its_agent_with_it() -> None:
    code = """
import multiprocessing
from quadloom_runtime.crash_points import reach
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=reach, args=("checkpoint-written",))
    child.start()
    child.join()
    print("survived")
"""
    ended = run(code, "checkpoint-written:1")
    assert ended.returncode == -signal.SIGKILL
    assert "survived" not in ended.stdout
