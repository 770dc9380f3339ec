"""Start, drive and stop the worker processes that a benchmark compares."""

import json
import os
import subprocess
import sys
from typing import Self

from quadloom_benchmarks.series import Series
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.errors import QuadloomError

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
RETURNING_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc raises its threshold as buffers are freed, keeps them, and its heap fragments: PyTorch is then faster and takes
nearly twice the memory. With the threshold fixed, large buffers go back when freed. Both are shown."""


class Contender:
    """A worker process that runs one training step whenever asked; it lives in the ``with`` block.

    Args:
        method, variant: how it trains, and which of several ways to do that.
        arguments: the worker's.
        python: the interpreter that has the method's packages.
    """

    def __init__(
        self,
        method: str,
        variant: str,
        arguments: list[str],
        *,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.method = method
        self.variant = variant
        self._command = [python, "-m", "quadloom_benchmarks.worker", *arguments]
        self._environment = os.environ | ONE_THREAD | (environment or {})

    @property
    def name(self) -> str:
        """Name of its row."""
        return f"{self.method}, {self.variant}"

    def step(self) -> dict[str, float]:
        """One step: ``cpu_s`` of this step and ``peak_bytes`` beyond the idle process so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise QuadloomError(
                f"the worker for {self.name} ended with status {self._process.wait()}",
                remedy="its own error stands above; for PyTorch, install quadloom[export]",
            )
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def member_contender(series: Series, key: MemberKey) -> Contender:
    """A member in its engine."""
    arguments = ["member", str(series.family.folder), key.model_dump_json(), str(series.accumulation)]
    return Contender(series.name, key.stem, arguments, python=series.python)
