"""What a race found: the runs of every method, and times to shares of the central ceiling."""

import math
from statistics import median
from typing import Literal

from pydantic import Field

from quadloom_benchmarks.convergence.ceiling import Ceiling
from quadloom_benchmarks.convergence.crossing import crossing_s
from quadloom_benchmarks.convergence.grid import Choice
from quadloom_runtime.contract.manifest import Value
from quadloom_server.simulation.evaluation_schedule import AtTimes
from quadloom_server.simulation.result import SimulationResult


class Point(Value):
    """An evaluation: accuracy at a virtual second."""

    at_s: float
    accuracy: float


class Run(Value):
    """One run of a method.

    Attributes:
        curve: its accuracy before any training, at 0 s, and at the same virtual times as all other runs, the last of
            which is the end of the budget.
        waiting_share: of the time that devices had work or waited for a round to end.
        transferred_bytes: both ways, all devices.
        diverged: whether training ended in what is no number; the curve is then that of no training.
    """

    seed: int
    rounds: int
    curve: tuple[Point, ...] = Field(min_length=1)
    waiting_share: float
    transferred_bytes: int
    diverged: bool = False

    @property
    def final_accuracy(self) -> float:
        """At the end of the budget."""
        return self.curve[-1].accuracy

    def time_to_s(self, accuracy: float) -> float:
        """Virtual seconds until the curve's isotonic fit reaches `accuracy`; infinite if the budget ended before."""
        return crossing_s([each.at_s for each in self.curve], [each.accuracy for each in self.curve], accuracy)


class Row(Value):
    """A method and its runs, one per seed.

    Attributes:
        choice: of its learning rate.
    """

    method: str
    choice: Choice
    runs: tuple[Run, ...] = Field(min_length=1)

    def times_s(self, accuracy: float) -> list[float]:
        """Of every run, rising; infinite where the budget ended before."""
        return sorted(run.time_to_s(accuracy) for run in self.runs)

    def median_s(self, accuracy: float) -> float:
        """Median time; infinite if the median run did not get there."""
        return median(self.times_s(accuracy))

    @property
    def final_accuracy(self) -> float:
        """Median over the runs."""
        return median(run.final_accuracy for run in self.runs)


class Convergence(Value):
    """A race.

    Attributes:
        name: of its setting, and of its data.
        setting: what was trained, how, and for how long, in words.
        budget_s: virtual seconds of every run.
        ceiling: of central training.
        rows: the first is ours, with which the others are compared.
    """

    name: str
    setting: str
    budget_s: float
    ceiling: Ceiling
    rows: tuple[Row, ...] = Field(min_length=1)

    def target(self, share: float) -> float:
        """The accuracy that is this share of the ceiling's."""
        return share * self.ceiling.accuracy

    def ratio(self, row: Row, share: float) -> tuple[float, Literal["=", ">", "<"]]:
        """Median time of the row against ours, and whether it is only known to be larger, or smaller.

        Not a number if neither got there, or ours was there before any training.
        """
        ours, theirs = self.rows[0].median_s(self.target(share)), row.median_s(self.target(share))
        if ours == 0 or (math.isinf(ours) and math.isinf(theirs)):
            return math.nan, "="
        bound: Literal["=", ">", "<"] = ">" if math.isinf(theirs) else "<" if math.isinf(ours) else "="
        return min(theirs, self.budget_s) / min(ours, self.budget_s), bound


def as_run(result: SimulationResult, times: AtTimes, *, start: float) -> Run:
    """A simulated run, without what only its continuation needs.

    Args:
        start: accuracy before any training.
    """
    later = [Point(at_s=time_s, accuracy=result.at(time_s).accuracy) for time_s in times.times_s]
    return Run(
        seed=result.settings.seed,
        rounds=result.records[-1].index,
        curve=(Point(at_s=0.0, accuracy=start), *later),
        waiting_share=result.waiting_share,
        transferred_bytes=result.transferred_bytes,
    )


def diverged_run(seed: int, times: AtTimes, *, start: float) -> Run:
    """A run whose training diverged: it has nothing better to show than no training.

    Args:
        start: accuracy before any training.
    """
    curve = tuple(Point(at_s=time_s, accuracy=start) for time_s in (0.0, *times.times_s))
    return Run(seed=seed, rounds=0, curve=curve, waiting_share=0.0, transferred_bytes=0, diverged=True)
