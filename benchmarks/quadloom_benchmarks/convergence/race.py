"""Runs a race: every method with every seed, each run kept in its folder, so that an interrupted race goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from quadloom_benchmarks.convergence.ceiling import Ceiling, check_ceiling, find_ceiling
from quadloom_benchmarks.convergence.found import Convergence, Row, as_run, diverged_run
from quadloom_benchmarks.convergence.grid import Choice, Grid
from quadloom_benchmarks.convergence.play import REMEDY, Play, play
from quadloom_benchmarks.convergence.tuning import tuned
from quadloom_benchmarks.convergence.words import in_words
from quadloom_benchmarks.processes import run_each
from quadloom_runtime.errors import QuadloomError, TrainingDivergedError
from quadloom_server.simulation.evaluation_schedule import closer_early
from quadloom_server.simulation.methods import find_method
from quadloom_server.simulation.result import SimulationResult


@dataclass(frozen=True)
class Race:
    """What is raced.

    Attributes:
        name: of fleet and split.
        plays: what all runs have in common.
        grid: learning rates of the methods, `ceiling_grid` of central training.
        ceiling: of another race on the same text, if it is not to be found again.
        choices: made already, by method; if any, all of them, and nothing is tried.
        methods: the first is ours.
        evaluations: of each run, the closer the earlier.
        ceiling_epochs: of central training.
    """

    name: str
    plays: Play
    grid: Grid
    ceiling_grid: Grid
    ceiling: Ceiling | None
    choices: Mapping[str, Choice]
    methods: Sequence[str]
    seeds: Sequence[int]
    evaluations: int
    ceiling_epochs: int
    work: Path


def run_race(race: Race, *, jobs: int) -> Convergence:
    """Play every run that is not finished yet, `jobs` at a time.

    Raises:
        QuadloomError: a method does not exist, an input cannot be used, or a run failed otherwise than by diverging.
    """
    _check(race)
    times = closer_early(race.evaluations, budget_s=race.plays.budget_s)
    inputs, ceiling = race.plays.inputs, _ceiling(race, jobs=jobs)
    choices = race.choices or tuned(
        race.plays, race.methods, race.grid, evaluations=race.evaluations, work=race.work, jobs=jobs
    )
    # Seed by seed, so that whoever watches can compare early.
    runs = [
        (race.plays.with_settings(evaluations=times, seed=seed), method, choices[method].learning_rate, race.work)
        for seed, method in product(race.seeds, race.methods)
    ]
    found = run_each(_played, runs, jobs=jobs, remedy=REMEDY)
    rows = [
        Row(
            method=method,
            choice=choices[method],
            runs=tuple(
                as_run(each, times, start=ceiling.start.accuracy)
                if isinstance(each, SimulationResult)
                else diverged_run(each, times, start=ceiling.start.accuracy)
                for each in found[place :: len(race.methods)]
            ),
        )
        for place, method in enumerate(race.methods)
    ]
    name = f"{race.name}, {inputs.train.resolve().parent.name}"
    return Convergence(
        name=name,
        setting=f"{name}: {in_words(race.plays)}; {ceiling.start.examples} predictions, {race.evaluations} evaluations",
        budget_s=race.plays.budget_s,
        ceiling=ceiling,
        rows=tuple(rows),
    )


def _ceiling(race: Race, *, jobs: int) -> Ceiling:
    """Of another race, or found here."""
    inputs, settings, work = race.plays.inputs, race.plays.settings, race.work
    if race.ceiling is None:
        return find_ceiling(inputs, settings, race.ceiling_grid, epochs=race.ceiling_epochs, jobs=jobs, work=work)
    check_ceiling(race.ceiling, inputs, settings, work)
    return race.ceiling


def _played(run: Play, method: str, learning_rate: float, work: Path) -> SimulationResult | int:
    """The run, or if training diverged its seed: that ends this run and no other."""
    try:
        return play(run, method, learning_rate, work)
    except TrainingDivergedError:
        return run.settings.seed


def _check(race: Race) -> None:
    if not race.methods or len(set(race.methods)) < len(race.methods):
        raise QuadloomError(f"--methods {','.join(race.methods)!r}", remedy="name different methods, ours first")
    for method in race.methods:
        find_method(method)
        if race.choices and method not in race.choices:
            raise QuadloomError(
                f"--rates-from has no learning rate of {method!r}, but of {', '.join(race.choices)}",
                remedy="race with these --methods, or give --learning-rates",
            )
    if not 0 < race.grid.budget_share <= 1:
        raise QuadloomError(
            f"--tuning-share is {race.grid.budget_share:g}", remedy="give a share of the budget above 0, 1 at most"
        )
    if race.grid.seed in race.seeds:
        raise QuadloomError(
            f"seed {race.grid.seed} is that of the runs that choose learning rates", remedy="race with other --seeds"
        )
