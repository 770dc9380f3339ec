"""Opens a simulated run: reads what lies on disk, deals the data out, and makes ready to train and evaluate."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.data import encode, load_examples
from quadloom_runtime.device.family_copy import tokenizer_blob
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import file_sha256
from quadloom_server.aggregation.adapter_layout import adapter_layout
from quadloom_server.aggregation.methods.select import make_aggregation
from quadloom_server.aggregation.server_optimizer import check_combination
from quadloom_server.family import ServedFamily
from quadloom_server.held_out import held_out_evaluator
from quadloom_server.planning.cost_model import reference_costs
from quadloom_server.simulation.adapter_start import random_start
from quadloom_server.simulation.code_identity import code_sha256
from quadloom_server.simulation.fleet import group_sizes, simulated_devices
from quadloom_server.simulation.fleet_file import SimulatedFleet
from quadloom_server.simulation.local_training import LocalTrainer
from quadloom_server.simulation.methods import find_method
from quadloom_server.simulation.randomness import generator
from quadloom_server.simulation.split import dealt
from quadloom_server.simulation.state import DeviceHistory, Facts, RoundRecord, State
from quadloom_server.simulation.world import RunSettings, World


@dataclass(frozen=True)
class Inputs:
    """Where a run's family and data lie.

    Attributes:
        train, held_out: JSONL, CSV or Parquet.
        eval_limit: use the first so many held-out examples, None for all.
        threads: of the engines.
    """

    family: Path
    train: Path
    held_out: Path
    eval_limit: int | None = None
    threads: int = 1
    text_field: str = "text"
    label_field: str = "label"


def open_world(
    inputs: Inputs, family: ServedFamily, fleet: SimulatedFleet, method: str, settings: RunSettings
) -> World:
    """Deal out the data, and make everything ready to train and evaluate.

    Raises:
        QuadloomError: an input cannot be used.
    """
    manifest = family.manifest
    examples = load_examples(
        inputs.train,
        num_labels=manifest.task.num_labels,
        text_field=inputs.text_field,
        label_field=inputs.label_field,
    )
    data = encode(
        examples,
        inputs.family / tokenizer_blob(manifest).path,
        sequence_length=manifest.batch.sequence_length,
        task=manifest.task.kind,
    )
    devices = simulated_devices(fleet, manifest, seed=settings.seed)
    labels = data.labels if data.labels.ndim == 1 else np.zeros(len(data), np.int64)  # a language model has no classes
    shards = dealt(labels.tolist(), group_sizes(devices), fleet.data, seed=settings.seed)
    chosen = find_method(method)
    ranks = set() if chosen.ranks == "family" else {device.rank for device in devices}
    layout = adapter_layout(manifest.parameters, alpha=manifest.lora.alpha, device_ranks=sorted(ranks))
    aggregation = make_aggregation(chosen.aggregation, layout)
    check_combination(chosen.server_optimizer, aggregation, mean_share=chosen.mean_share)
    return World(
        manifest=manifest,
        references=reference_costs(manifest),
        fleet=fleet,
        devices=devices,
        rows={device.name: rows for device, rows in zip(devices, shards, strict=True)},
        method=chosen,
        layout=layout,
        aggregation=aggregation,
        settings=settings,
        train=LocalTrainer(inputs.family, manifest, data, threads=inputs.threads).train,
        evaluate=held_out_evaluator(
            family,
            inputs.held_out,
            text_field=inputs.text_field,
            label_field=inputs.label_field,
            limit=inputs.eval_limit,
            threads=inputs.threads,
        ),
    )


def initial_state(world: World, family: ServedFamily) -> State:
    """Before anybody has trained."""
    installed = world.fleet.files == "installed"
    fetched = tuple(each.key for each in family.manifest.members) if installed else ()
    start = RoundRecord(index=0, opened_s=0.0, closed_s=0.0)
    histories = {device.name: DeviceHistory(fetched=fetched) for device in world.devices}
    return State(Facts(records=(start,), histories=histories), start_parameters(family, world.settings))


def start_parameters(family: ServedFamily, settings: RunSettings) -> dict[str, FloatArray]:
    """The adapter that a run starts from."""
    table = family.manifest.parameters
    adapter = read_parameters(family.folder / family.initial_adapter.path, table, remedy="export the family again")
    if settings.start == "family":
        return adapter
    return random_start(adapter, table, generator(settings.seed, "start"))


def identity(inputs: Inputs, family: ServedFamily, fleet: SimulatedFleet, method: str, settings: RunSettings) -> str:
    """SHA-256 of everything that a run's course depends on, the code too, but for its length and number of threads.

    Raises:
        QuadloomError: a data file cannot be read.
    """
    try:
        data = [file_sha256(inputs.train), file_sha256(inputs.held_out)]
    except OSError as error:
        raise QuadloomError(f"cannot read {error.filename}: {error.strerror}", remedy="check the path") from None
    fields = [inputs.text_field, inputs.label_field, str(inputs.eval_limit)]
    parts = [family.manifest_sha256, *data, *fields, fleet.model_dump_json(), method, settings.model_dump_json()]
    parts.append(code_sha256())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
