"""Measured in fresh processes: what the test process did before must not count."""

import subprocess
import sys

import pytest

MB = 10**6
MEASURE = """
import numpy as np
from quadloom_runtime import memory
from quadloom_runtime.memory import StepMemoryMeter, process_memory

kept = np.ones(30 * 10**6 // 8)
{prepare}
meter = StepMemoryMeter()
with meter:
    {inside}
print(meter.peak_bytes, meter.baseline_bytes, process_memory().anonymous_bytes)
"""


def measure(*, inside: str, prepare: str = "") -> tuple[int, int, int]:
    script = MEASURE.format(prepare=prepare, inside=inside)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, baseline, after = map(int, found.stdout.split())
    return peak, baseline, after


WITHOUT_RESET = "from pathlib import Path; memory.CLEAR_REFERENCES = Path('/proc/self/absent/clear_refs')"
HELD_FOR_A_WHILE = "np.ones(60 * 10**6 // 8); import time; x = np.ones(100 * 10**6 // 8); time.sleep(0.3); del x"


@pytest.mark.parametrize("prepare", ["", WITHOUT_RESET], ids=["high-water mark", "sampler"])
def test_the_peak_counts_what_a_step_held_and_freed_again(prepare: str) -> None:
    peak, baseline, after = measure(prepare=prepare, inside=HELD_FOR_A_WHILE)
    assert peak == pytest.approx(100 * MB, abs=3 * MB)
    assert baseline > 30 * MB
    assert after < baseline + 3 * MB, "the test must have freed it, or it shows nothing"


def test_a_peak_from_before_the_meter_does_not_count() -> None:
    peak, _, _ = measure(prepare="x = np.ones(200 * 10**6 // 8); del x", inside="y = np.ones(20 * 10**6 // 8); del y")
    assert peak == pytest.approx(20 * MB, abs=3 * MB)


def test_mapped_files_do_not_count() -> None:
    mapped = """
import tempfile
file = tempfile.NamedTemporaryFile()
file.write(b"x" * 50_000_000)
file.flush()
weights = np.memmap(file.name, dtype=np.uint8, mode="r")
int(weights[::4096].sum())
"""
    peak, _, _ = measure(prepare=mapped, inside="int(weights[::4096].sum()); y = np.ones(20 * 10**6 // 8); del y")
    assert peak == pytest.approx(20 * MB, abs=3 * MB)


def test_memory_kept_from_an_earlier_step_still_counts() -> None:
    twice = "x = np.ones(40 * 10**6 // 8)\nwith meter:\n    pass"
    peak, _, _ = measure(inside=twice)
    assert peak == pytest.approx(40 * MB, abs=3 * MB)
