"""Start child processes with their output in files, and stop exactly those."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

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
        """The last line that the child wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Processes:
    """The children of one emulation, stopped together on leaving the block."""

    log_folder: Path
    children: list[Child] = field(default_factory=list)

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
        return self

    def __exit__(self, *_: object) -> None:
        running = [child.process for child in self.children if child.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE_S
        for process in running:
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
