"""Named moments at which a test lets a process die as if the power had gone.

``QUADLOOM_CRASH_AT=NAME:N`` kills the process with SIGKILL when it reaches NAME for the N-th time: nothing is flushed,
no handler runs. Without the variable a crash point does nothing. `tests.faults` visits every one of them.
"""

import multiprocessing
import os
import signal
import threading
from typing import Final, Literal, get_args

from quadloom_runtime.errors import QuadloomError

VARIABLE: Final = "QUADLOOM_CRASH_AT"

ServerCrashPoint = Literal[
    "enrolled-before-answer",
    "assignment-committed-before-answer",
    "blob-half-served",
    "upload-half-received",
    "upload-stored-before-commit",
    "update-counted-before-answer",
    "round-closing-committed",
    "adapter-half-written",
    "adapter-written-before-commit",
    "round-closed-before-cleanup",
]
DeviceCrashPoint = Literal[
    "enrolled-before-first-check-in",
    "download-half",
    "download-before-rename",
    "step-done-before-checkpoint",
    "checkpoint-half-written",
    "checkpoint-written",
    "update-half-written",
    "update-saved-before-upload",
    "upload-half-sent",
    "update-acknowledged-before-forgotten",
]
CrashPoint = ServerCrashPoint | DeviceCrashPoint
SERVER_CRASH_POINTS: Final[tuple[ServerCrashPoint, ...]] = get_args(ServerCrashPoint)
DEVICE_CRASH_POINTS: Final[tuple[DeviceCrashPoint, ...]] = get_args(DeviceCrashPoint)

_lock = threading.Lock()
_visits = 0


def reach(point: CrashPoint) -> None:
    """Die here if the environment says so.

    Raises:
        QuadloomError: the variable names no crash point.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    name, nth = _parse(wanted)
    if name != point:
        return
    global _visits
    with _lock:  # also counts right when requests arrive in several threads
        _visits += 1
        if _visits == nth:
            _die()


def _parse(wanted: str) -> tuple[str, int]:
    name, _, nth = wanted.partition(":")
    if name not in (*SERVER_CRASH_POINTS, *DEVICE_CRASH_POINTS) or not nth.isdecimal():
        raise QuadloomError(
            f"{VARIABLE} is {wanted!r}", remedy=f"name a crash point and which visit, e.g. {SERVER_CRASH_POINTS[0]}:1"
        )
    return name, int(nth)


def _die() -> None:
    # A device dies whole: its training process takes the agent with it.
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        os.kill(parent.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
