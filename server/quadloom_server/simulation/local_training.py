"""A device's share of a round, really trained: one process trains for all devices, one after the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, ParameterSpec
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.data import EncodedData
from quadloom_runtime.engines.engine import FloatArray, TrainingEngine
from quadloom_runtime.engines.rank import RankEngine
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.trainer import epoch_rows, train
from quadloom_server.simulation.kept_layers_engine import KeptLayersEngine
from quadloom_server.simulation.logit_adjustment import LogitAdjustedEngine, log_prior, logit_bias


@dataclass(frozen=True)
class LocalWork:
    """What one device trains.

    Attributes:
        rows: of the training data that it has.
        rank: of its adapter.
        layers: those that it moves, counted from the input; None for all of the member.
        settings: how, the order of the data included.
        adjust_logits: whether the label shares of what it trains on are taken out of the loss (`logit_adjustment.py`).
    """

    member: MemberKey
    rows: Sequence[int]
    rank: int
    layers: frozenset[int] | None
    settings: TrainingSettings
    adjust_logits: bool = False


@dataclass(frozen=True)
class LocalUpdate:
    """What came of it.

    Attributes:
        start, trained: the tensors that it moved, before and after, at its rank.
        examples: different examples that it rests on.
        norms: layer to the norm of its gradient.
    """

    start: Mapping[str, FloatArray]
    trained: Mapping[str, FloatArray]
    examples: int
    norms: Mapping[int, float]


def moved_rows(manifest: FamilyManifest, work: LocalWork) -> tuple[ParameterSpec, ...]:
    """Rows of the parameter table that the work moves: the head, and the chosen ones of the member's layers."""
    rows = manifest.trained_parameters(work.member.depth)
    if work.layers is None:
        return rows
    return tuple(row for row in rows if row.layer == "head" or row.layer in work.layers)


class LocalTrainer:
    """Trains for every device of a fleet; the engine of a member is opened once, whoever asks for it.

    Args:
        folder: of the family.
        data: every training example, of all devices.
        threads: of the engines.
    """

    def __init__(self, folder: Path, manifest: FamilyManifest, data: EncodedData, *, threads: int = 1) -> None:
        self._folder = folder
        self._manifest = manifest
        self._data = data
        self._threads = threads
        self._engines: dict[MemberKey, TrainingEngine] = {}

    def train(self, work: LocalWork, parameters: Mapping[str, FloatArray]) -> LocalUpdate:
        """Train as the device would.

        Args:
            parameters: the adapter as the device gets it, at its rank; left unchanged.

        Raises:
            QuadloomError: the member cannot be loaded, or training diverged.
        """
        data = _rows(self._data, work.rows)
        moved = moved_rows(self._manifest, work)
        outcome = train(
            self._engine(work, data, moved),
            parameters,
            moved,
            data,
            batch_size=self._manifest.batch.batch_size,
            settings=_enough_epochs(work.settings, len(data), self._manifest.batch.batch_size),
        )
        return LocalUpdate(
            start={name: parameters[name] for name in outcome.update},
            trained={name: parameters[name] + change for name, change in outcome.update.items()},
            examples=outcome.examples,
            norms=outcome.gradient_norms,
        )

    def _engine(self, work: LocalWork, data: EncodedData, moved: Sequence[ParameterSpec]) -> TrainingEngine:
        """The member's engine, as this device uses it."""
        if work.member not in self._engines:
            self._engines[work.member] = open_training_engine(
                self._folder, self._manifest, work.member, threads=self._threads
            )
        engine = self._engines[work.member]
        if work.rank != self._manifest.lora.rank:
            engine = RankEngine(engine, self._manifest.parameters, work.rank)
        if work.layers is not None:
            engine = KeptLayersEngine(engine, {row.name for row in moved})
        labels = self._manifest.task.num_labels
        if work.adjust_logits and labels is not None:
            trained_on = data.labels[epoch_rows(data, work.settings, 0)]
            shift = log_prior(trained_on, num_labels=labels)
            engine = LogitAdjustedEngine(engine, logit_bias(self._manifest), shift)
        return engine


def _rows(data: EncodedData, rows: Sequence[int]) -> EncodedData:
    taken = np.asarray(rows, dtype=np.int64)
    return EncodedData(
        data.input_ids[taken], data.attention_mask[taken], data.token_type_ids[taken], data.labels[taken]
    )


def _enough_epochs(settings: TrainingSettings, examples: int, batch_size: int) -> TrainingSettings:
    """A device with little data passes over it until its steps are made."""
    if settings.max_steps is None:
        return settings
    steps_per_epoch = math.ceil(math.ceil(examples / batch_size) / settings.accumulation)
    return settings.model_copy(update={"epochs": math.ceil(settings.max_steps / steps_per_epoch)})
