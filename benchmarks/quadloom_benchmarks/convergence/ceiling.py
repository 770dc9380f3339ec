"""What a race is measured against: central training of everything, of the head alone, and no training at all.

Every figure is found once and kept in the folder of the race.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from pydantic import Field, ValidationError

from quadloom_benchmarks import central_training
from quadloom_benchmarks.accuracy import make_settings
from quadloom_benchmarks.central_training import CentralTraining, train_member
from quadloom_benchmarks.convergence.grid import Choice, Grid, best
from quadloom_benchmarks.convergence.play import REMEDY
from quadloom_benchmarks.convergence.validation import validation_inputs
from quadloom_benchmarks.processes import run_each
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, Value
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError, TrainingDivergedError
from quadloom_runtime.family_folder import file_sha256
from quadloom_server.family import open_family
from quadloom_server.held_out import held_out_evaluator
from quadloom_server.simulation.code_identity import code_sha256
from quadloom_server.simulation.opening import Inputs, start_parameters
from quadloom_server.simulation.world import RunSettings

SEEDS = (0, 1, 2)


class Ceiling(Value):
    """Accuracies on held-out text.

    Attributes:
        start: before any training; with a drawn adapter, which changes nothing yet, the same for every seed.
        head: with the head alone trained on all of the text in one place, the model as it came.
        runs: with the deepest member trained on all of the text in one place, one per seed.
        choice: of its learning rate.
        epochs: passes over the text.
    """

    start: Evaluation
    head: Evaluation
    runs: tuple[Evaluation, ...] = Field(min_length=1)
    choice: Choice
    epochs: int

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return fmean(each.accuracy for each in self.runs)

    def way(self, accuracy: float) -> float:
        """Where an accuracy lies between no training, 0, and the ceiling, 1."""
        return (accuracy - self.start.accuracy) / (self.accuracy - self.start.accuracy)


def find_ceiling(inputs: Inputs, settings: RunSettings, grid: Grid, *, epochs: int, jobs: int, work: Path) -> Ceiling:
    """Find what is not there yet.

    Args:
        settings: of the race: its start and the head's learning rate.
        epochs: of central training; its learning rate falls to zero over them.

    Raises:
        QuadloomError: an input cannot be used, or training diverged at the chosen rate.
    """

    def training(of: Inputs, rate: float) -> CentralTraining:
        head_rate = settings.training.head_learning_rate
        return CentralTraining(
            train=of.train,
            held_out=of.held_out,
            settings=make_settings(epochs=epochs, learning_rate=rate, head_learning_rate=head_rate),
            threads=of.threads,
            text_field=of.text_field,
            label_field=of.label_field,
        )

    choice = Choice(learning_rate=grid.rates[0])
    if grid.open:
        validation = validation_inputs(inputs, share=grid.validation_share, work=work)
        tried = [(training(validation, rate), inputs.family, grid.seed, work) for rate in grid.rates]
        found = run_each(_validated, tried, jobs=jobs, remedy=REMEDY)
        choice = best(dict(zip(grid.rates, found, strict=True)), of="central training")
    chosen = training(inputs, choice.learning_rate)
    wanted = [(chosen, inputs.family, seed, work) for seed in SEEDS]
    wanted.append((replace(chosen, head_only=True), inputs.family, SEEDS[0], work))
    *runs, head = run_each(_trained, wanted, jobs=jobs, remedy=REMEDY)
    return Ceiling(start=_start(inputs, settings, work), head=head, runs=tuple(runs), choice=choice, epochs=epochs)


def check_ceiling(ceiling: Ceiling, inputs: Inputs, settings: RunSettings, work: Path) -> None:
    """Check that the ceiling of another race is of this model and this held-out text: untrained, both score alike.

    Raises:
        QuadloomError: they do not.
    """
    here, there = _start(inputs, settings, work), ceiling.start
    if here.examples != there.examples or not math.isclose(here.loss, there.loss, rel_tol=1e-4):
        raise QuadloomError(
            f"--ceiling-from is of another model or text: untrained, loss {there.loss:.6f} on {there.examples} "
            f"examples, here {here.loss:.6f} on {here.examples}",
            remedy="name a race on the same --family and --eval, or leave --ceiling-from out",
        )


def _validated(training: CentralTraining, family: Path, seed: int, work: Path) -> float:
    """Accuracy, 0 if training diverged."""
    try:
        return _trained(training, family, seed, work).accuracy
    except TrainingDivergedError:
        return 0.0


def _trained(training: CentralTraining, family: Path, seed: int, work: Path) -> Evaluation:
    """Of the deepest member with nothing quantized, or the shallowest if the head alone trains: that is faster."""
    served = open_family(family)
    key = _plain_member(served.manifest, deepest=not training.head_only)
    parts = [served.manifest_sha256, key.label, file_sha256(training.train), file_sha256(training.held_out), str(seed)]
    parts += [training.text_field, training.label_field, str(training.head_only), training.settings.model_dump_json()]
    return _kept(parts, work, lambda: train_member(training, family, key, seed).evaluation)


def _start(inputs: Inputs, settings: RunSettings, work: Path) -> Evaluation:
    family = open_family(inputs.family)

    def judge() -> Evaluation:
        evaluate = held_out_evaluator(
            family,
            inputs.held_out,
            text_field=inputs.text_field,
            label_field=inputs.label_field,
            limit=None,
            threads=inputs.threads,
        )
        return evaluate(start_parameters(family, settings))

    parts = [family.manifest_sha256, file_sha256(inputs.held_out), inputs.text_field, inputs.label_field]
    return _kept([*parts, settings.start], work, judge)


def _plain_member(manifest: FamilyManifest, *, deepest: bool) -> MemberKey:
    plain = sorted(
        (each.key for each in manifest.members if each.key.format == manifest.formats[0].format),
        key=lambda key: (-key.depth if deepest else key.depth, key.quantized_layers, key.recompute_percent),
    )
    return plain[0]


def _kept(parts: list[str], work: Path, find: Callable[[], Evaluation]) -> Evaluation:
    """What was found of this before, or now."""
    code = [code_sha256(), file_sha256(Path(central_training.__file__))]
    identity = hashlib.sha256("|".join([*parts, *code]).encode()).hexdigest()
    path = work / f"central-{identity[:16]}.json"
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        found = find()
        write_atomically(path, found.model_dump_json().encode())
        return found
