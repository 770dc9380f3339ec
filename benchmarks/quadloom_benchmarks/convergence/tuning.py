"""Chooses every method's learning rate: each of the grid in a shorter run of its own seed, judged on validation text.

The score is the mean accuracy over the times of evaluation: it rewards a rate that is fast as well as one that gets
far, and one lucky evaluation weighs little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean

from quadloom_benchmarks.convergence.grid import Choice, Grid, best
from quadloom_benchmarks.convergence.play import REMEDY, Play, play
from quadloom_benchmarks.convergence.validation import validation_inputs
from quadloom_benchmarks.processes import run_each
from quadloom_runtime.errors import TrainingDivergedError
from quadloom_server.simulation.evaluation_schedule import AtTimes, closer_early


def tuned(
    plays: Play, methods: Sequence[str], grid: Grid, *, evaluations: int, work: Path, jobs: int
) -> Mapping[str, Choice]:
    """The learning rate of every method; of a grid of one, this one without any run.

    Args:
        plays: of the race.
        evaluations: of a run of the race; a shorter one has its share of them, rounded up.

    Raises:
        QuadloomError: no rate lets a method train, or an input cannot be used.
    """
    if not grid.open:
        return {method: Choice(learning_rate=grid.rates[0]) for method in methods}
    budget_s = grid.budget_share * plays.budget_s
    times = closer_early(math.ceil(grid.budget_share * evaluations), budget_s=budget_s)
    inputs = validation_inputs(plays.inputs, share=grid.validation_share, work=work)
    shorter = replace(plays, inputs=inputs, budget_s=budget_s).with_settings(evaluations=times, seed=grid.seed)
    tried = list(product(methods, grid.rates))
    runs = [(shorter, times, method, rate, work) for method, rate in tried]
    scores = dict(zip(tried, run_each(_score, runs, jobs=jobs, remedy=REMEDY), strict=True))
    return {method: best({rate: scores[method, rate] for rate in grid.rates}, of=method) for method in methods}


def _score(run: Play, times: AtTimes, method: str, learning_rate: float, work: Path) -> float:
    """Mean accuracy over the times, 0 if training diverged."""
    try:
        result = play(run, method, learning_rate, work)
    except TrainingDivergedError:
        return 0.0
    return fmean(result.at(time_s).accuracy for time_s in times.times_s)
