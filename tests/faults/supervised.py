"""A real process that is started again each time a crash point has killed it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from quadloom_runtime.crash_points import VARIABLE


@dataclass
class Supervised:
    """A process that is started again when it was killed, each time with the next crash point of its list."""

    name: str
    command: list[str]
    log: Path
    crashes: list[str]
    died_at: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    _armed: str | None = None

    def start(self) -> None:
        """Begin a life."""
        self._armed = self.crashes.pop(0) if self.crashes else None
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        if self._armed is not None:
            environment[VARIABLE] = self._armed
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def exit_code(self) -> int | None:
        """None while it runs. A process that died of its crash point is running again."""
        assert self.process is not None
        code = self.process.poll()
        if code == -signal.SIGKILL and self._armed is not None:
            self.died_at.append(self._armed.partition(":")[0])
            self.start()
            return None
        return code

    def said(self) -> str:
        """All that it has printed, in all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> int:
        """Ask it to end; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def end(self) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self.process is not None
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def quadloom(subcommand: str, options: dict[str, object]) -> list[str]:
    """The command line of a subcommand."""
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "quadloom_runtime", subcommand, *words]
