"""ONNX Runtime does not report to anybody from a device."""

import subprocess
import sys

PROGRAM = """
import os
from pathlib import Path
import numpy

before = len(os.listdir("/proc/self/task"))
from quadloom_runtime.engines.onnx import open_graph
from quadloom_runtime.errors import QuadloomError

try:
    open_graph(Path("missing.onnx"), (), threads=1)
except QuadloomError:
    pass
import onnxruntime

print(len(os.listdir("/proc/self/task")) - before, os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_loading_the_engine_starts_no_thread() -> None:
    """The first thing that its telemetry does is to start one."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
