"""A member trained in one place, from a random start, by the engine and optimizer that a device uses."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import Evaluation, TrainingSettings
from quadloom_runtime.data import EncodedData, encode, load_examples
from quadloom_runtime.device.family_copy import tokenizer_blob
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.trainer import Checkpoint, OnStep, train
from quadloom_server.family import ServedFamily, open_family
from quadloom_server.held_out import held_out_evaluator
from quadloom_server.simulation.adapter_start import random_start
from quadloom_server.simulation.kept_layers_engine import KeptLayersEngine


@dataclass(frozen=True)
class CentralTraining:
    """What all runs have in common.

    Attributes:
        train, held_out: JSONL, CSV or Parquet.
        settings: how to train; a run puts its own seed there.
        threads: threads of the engines.
        limit: use the first `limit` examples of each file, None for all.
        head_only: leave the member's layers as they are.
    """

    train: Path
    held_out: Path
    settings: TrainingSettings
    threads: int = 1
    limit: int | None = None
    head_only: bool = False
    text_field: str = "text"
    label_field: str = "label"


@dataclass(frozen=True)
class Trained:
    """One run.

    Attributes:
        parameters: every row of the parameter table after training.
        evaluation: of these parameters on the held-out examples.
        examples: training examples.
        loss_first, loss_last: mean training loss of the first and last tenth of the batches.
    """

    parameters: dict[str, FloatArray]
    evaluation: Evaluation
    examples: int
    loss_first: float
    loss_last: float


def train_member(training: CentralTraining, folder: Path, key: MemberKey, seed: int) -> Trained:
    """Train and evaluate one member of the family in `folder`.

    Start and order of the data follow from the seed alone, whatever the member.

    Raises:
        QuadloomError: family or data cannot be used, or training diverged.
    """
    family = open_family(folder)
    manifest, settings = family.manifest, training.settings.model_copy(update={"seed": seed})
    evaluate = held_out_evaluator(
        family,
        training.held_out,
        text_field=training.text_field,
        label_field=training.label_field,
        limit=training.limit,
        threads=training.threads,
    )
    data = _training_data(training, family)
    adapter = read_parameters(
        family.folder / family.initial_adapter.path, manifest.parameters, remedy="export the family again"
    )
    start = random_start(adapter, manifest.parameters, np.random.default_rng(seed))
    run = f"{folder.name} {key.label}, seed {seed}"
    engine = open_training_engine(family.folder, manifest, key, threads=training.threads)
    trained_rows = manifest.trained_parameters(0 if training.head_only else key.depth)
    outcome = train(
        KeptLayersEngine(engine, {row.name for row in trained_rows}) if training.head_only else engine,
        start,
        trained_rows,
        data,
        batch_size=manifest.batch.batch_size,
        settings=settings,
        on_step=_after_epoch(run, epochs=settings.epochs),
    )
    trained = {name: value + outcome.update.get(name, np.float32(0)) for name, value in start.items()}
    evaluation = evaluate(trained)
    _say(f"{run}: accuracy {100 * evaluation.accuracy:.2f} %")
    return Trained(trained, evaluation, outcome.examples, outcome.loss_first, outcome.loss_last)


def _training_data(training: CentralTraining, family: ServedFamily) -> EncodedData:
    manifest = family.manifest
    examples = load_examples(
        training.train,
        num_labels=manifest.task.num_labels,
        text_field=training.text_field,
        label_field=training.label_field,
    )
    return encode(
        examples[: training.limit],
        family.folder / tokenizer_blob(manifest).path,
        sequence_length=manifest.batch.sequence_length,
        task=manifest.task.kind,
    )


def _after_epoch(run: str, *, epochs: int) -> OnStep:
    """Say on stderr how each epoch went."""

    def after(at: Checkpoint, steps: int) -> None:
        steps_per_epoch = steps // epochs
        epoch, rest = divmod(at.step, steps_per_epoch)
        if rest == 0:
            loss = np.mean(at.losses[-steps_per_epoch:])
            _say(f"{run}: epoch {epoch} of {epochs}, loss {loss:.4f}, {at.train_s:.0f} s")

    return after


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
