"""Measure contenders in rounds of one step each, one after the other, so that drift of the machine cancels."""

from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from quadloom_benchmarks.contender import Contender

WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """What the steps of one contender took.

    Attributes:
        peak_bytes: largest anonymous memory beyond the loaded, idle process, over all steps.
        seconds: processor time per round, warm-up left out.
    """

    peak_bytes: int
    seconds: tuple[float, ...]


def measure_interleaved(contenders: list[Contender], *, rounds: int) -> list[Measured]:
    """One result per contender. Each lives in a process of its own, all of them at once."""
    seconds: list[list[float]] = [[] for _ in contenders]
    peaks = [0 for _ in contenders]
    with ExitStack() as running:
        for contender in contenders:
            running.enter_context(contender)
        for index in range(rounds + WARM_UP_ROUNDS):
            for place, contender in enumerate(contenders):
                step = contender.step()
                peaks[place] = int(step["peak_bytes"])
                if index >= WARM_UP_ROUNDS:
                    seconds[place].append(step["cpu_s"])
    return [Measured(peak, tuple(values)) for peak, values in zip(peaks, seconds, strict=True)]


def time_ratio(seconds: tuple[float, ...], reference: tuple[float, ...]) -> float:
    """The median of the ratios within a round."""
    return median(own / other for own, other in zip(seconds, reference, strict=True))
