"""Start child processes with their output in files, and stop exactly those."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

STOP_PATIENCE_S = 10.0
# An emulated device has the threads that its profile says; libraries must not add their own.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Child:
    """A running (or ended) child process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_line(self) -> str:
        """The last line that the child wrote; of an error the cause, not the remedy that follows it."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if line.strip() and not line.startswith("  remedy: ")]
        return telling[-1] if telling else ""


@dataclass
class Processes:
    """The children of one emulation, stopped together on leaving the block, also by a signal; main thread only."""

    log_folder: Path
    children: list[Child] = field(default_factory=list)
    _former_handler: Any = field(default=signal.SIG_DFL, init=False, repr=False)

    def start(self, name: str, arguments: list[str]) -> Child:
        """Start ``quadloom ARGUMENTS`` with output to ``<name>.log``."""
        return self.start_command(name, [sys.executable, "-m", "quadloom_runtime", *arguments])

    def start_command(self, name: str, command: list[str]) -> Child:
        """Start any command the same way."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        log = self.log_folder / f"{name}.log"
        with log.open("wb") as output:
            # A group of its own: an interrupt in the terminal reaches the parent only, which then stops the children.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | ONE_THREAD | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def __enter__(self) -> "Processes":
        # By default this signal would end the parent at once, and leave every child running.
        self._former_handler = signal.signal(signal.SIGTERM, _end_as_asked)
        return self

    def __exit__(self, *_: object) -> None:
        running = [child.process for child in self.children if child.process.poll() is None]
        for process in running:
            _signal_group(process, signal.SIGTERM)
        try:
            _wait_for_all(running, patience_s=STOP_PATIENCE_S)
        finally:  # also when a second interrupt cuts the waiting short
            for process in running:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            signal.signal(signal.SIGTERM, self._former_handler)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Reach a child and what it started itself: a device trains in a process of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _wait_for_all(running: list[subprocess.Popen[bytes]], *, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, deadline - time.monotonic()))


def _end_as_asked(number: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exit that passes through the block; the status is a shell's for that signal."""
    raise SystemExit(128 + number)
