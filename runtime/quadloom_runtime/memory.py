"""How much memory a training step really takes, read from the operating system (Linux)."""

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STATUS = Path("/proc/self/status")
CLEAR_REFERENCES = Path("/proc/self/clear_refs")
RESET_HIGH_WATER_MARK = "5"
SAMPLING_INTERVAL_S = 0.001


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of this process, in bytes.

    Attributes:
        anonymous_bytes: resident and private: what the process allocated (RssAnon).
        file_bytes: resident pages of mapped files, such as the shared weights (RssFile); free to drop.
        high_water_bytes: largest resident size since the mark was last reset (VmHWM), mapped files included.
        data_bytes: private writable address space (VmData); what RLIMIT_DATA bounds.
    """

    anonymous_bytes: int
    file_bytes: int
    high_water_bytes: int
    data_bytes: int


def process_memory() -> ProcessMemory:
    """Read the current figures."""
    found = {name: int(size) * 1024 for name, size in re.findall(r"(\w+):\s+(\d+) kB", STATUS.read_text())}
    return ProcessMemory(found["RssAnon"], found["RssFile"], found["VmHWM"], found["VmData"])


class StepMemoryMeter:
    """Peak anonymous memory beyond the idle process, over any number of steps: ``with meter: step()``.

    The kernel's high-water mark counts mapped files too, so the peak is that mark minus the file pages that are
    resident when the step ends. This assumes that they were resident at the peak already. It holds from the second step
    on, when the weights are in; the first step alone may read too low by the weights that only its backward touched,
    and a machine that drops file pages for lack of memory makes it read too high. So measure several steps: the largest
    counts.

    Where the mark cannot be reset, a thread samples the anonymous memory every millisecond instead.

    Attributes:
        baseline_bytes: anonymous memory when the meter was made: the loaded, idle process.
        peak_bytes: largest anonymous memory beyond the baseline so far.
    """

    def __init__(self) -> None:
        self.baseline_bytes = process_memory().anonymous_bytes
        self.peak_bytes = 0
        self._sampler: _Sampler | None = None

    def __enter__(self) -> Self:
        self._sampler = None if _reset_high_water_mark() else _Sampler()
        return self

    def __exit__(self, *_: object) -> None:
        now = process_memory()
        if self._sampler is None:
            peak = max(now.high_water_bytes - now.file_bytes, now.anonymous_bytes)
        else:
            peak = max(self._sampler.stop(), now.anonymous_bytes)
        self.peak_bytes = max(self.peak_bytes, peak - self.baseline_bytes)


class _Sampler:
    """Watches anonymous memory from a thread until it is stopped."""

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End, and return the largest value seen."""
        self._stopping.set()
        self._thread.join()
        return self._peak_bytes

    def _watch(self) -> None:
        while not self._stopping.wait(SAMPLING_INTERVAL_S):
            self._peak_bytes = max(self._peak_bytes, process_memory().anonymous_bytes)


def _reset_high_water_mark() -> bool:
    """Let VmHWM begin anew from the current resident size; False where the kernel does not allow it."""
    try:
        CLEAR_REFERENCES.write_text(RESET_HIGH_WATER_MARK)
    except OSError:
        return False
    return True
