"""`quadloom bench executorch-memory`: arena, lower bound, size and measured growth of ExecuTorch members.

Lowers a random model of MiniLM's shape with nothing of the family around it, so that what is measured is the lowering.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save_file

from quadloom_benchmarks.contender import ONE_THREAD
from quadloom_benchmarks.families import write_random_model
from quadloom_runtime.contract.manifest import MemberKey, TensorSpec
from quadloom_runtime.errors import QuadloomError

STEPS = 3
SPECS = TypeAdapter(tuple[TensorSpec, ...])


def report_executorch_memory(
    members: tuple[MemberKey, ...], *, layers: int, batch_size: int, sequence_length: int, work: Path
) -> None:
    """Lower, measure each member in a fresh process, and print the table."""
    folder = work / f"executorch-{layers}-layers-batch-{batch_size}-length-{sequence_length}"
    folder.mkdir(parents=True, exist_ok=True)
    lowered = _lower(folder, members, layers=layers, batch_size=batch_size, sequence_length=sequence_length)
    print(
        f"ExecuTorch, {layers} layers of MiniLM's shape, batch {batch_size}, sequence {sequence_length}; growth: "
        f"anonymous memory of a fresh process over {STEPS} steps, largest"
    )
    print(
        f"{'member':>8} {'program kB':>10} {'lowering s':>10} {'arena MB':>9} {'above bound':>11} {'growth MB':>10} "
        f"{'arena, growth against own q=0':>30}"
    )
    unquantized: dict[int, tuple[int, int]] = {}
    for key in members:
        figures = lowered[key]
        growth = _growth_bytes(folder, key)
        if key.quantized_layers == 0:
            unquantized[key.depth] = (figures["arena"], growth)
        against = unquantized.get(key.depth)
        saved = "-" if against is None else f"{_change(figures['arena'], against[0])}, {_change(growth, against[1])}"
        print(
            f"{key.label:>8} {figures['program'] / 1e3:10.0f} {figures['lowering_ms'] / 1e3:10.1f} "
            f"{figures['arena'] / 1e6:9.1f} {_change(figures['arena'], figures['bound']):>11} {growth / 1e6:10.1f} "
            f"{saved:>30}",
            flush=True,
        )


def _change(now: int, before: int) -> str:
    return f"{100 * (now / before - 1):+.1f} %"


def _lower(
    folder: Path, members: tuple[MemberKey, ...], *, layers: int, batch_size: int, sequence_length: int
) -> dict[MemberKey, dict[str, int]]:
    """Write programs, weights, parameters and specs; returns what lowering told of each member."""
    from quadloom_export.lowering.executorch import (
        WEIGHTS_NAME,
        input_specs,
        lower_to_executorch,
        output_specs,
        save,
        weights_file,
    )
    from quadloom_export.model import add_lora
    from quadloom_export.passes.quantize import StashFormat
    from quadloom_export.pipeline import at_depth, at_quantization, training_graph
    from quadloom_export.pretrained import load_classifier

    if not (folder / "model/config.json").exists():
        write_random_model(folder / "model", layers=layers)
    model = add_lora(load_classifier(str(folder / "model"), num_labels=2), rank=8, alpha=16.0)
    save_file({name: value.numpy() for name, value in model.trainable.items()}, folder / "parameters.safetensors")
    full = training_graph(model, batch_size=batch_size, sequence_length=sequence_length)
    save(weights_file(full), folder / WEIGHTS_NAME)
    found = {}
    for key in members:
        graph = at_quantization(at_depth(full, key.depth), key.quantized_layers, StashFormat())
        started = time.process_time()
        member = lower_to_executorch(graph)
        lowering_ms = round(1000 * (time.process_time() - started))
        save(member.program, folder / f"{key.label}.pte")
        (folder / f"{key.label}.inputs.json").write_bytes(SPECS.dump_json(input_specs(graph)))
        (folder / f"{key.label}.outputs.json").write_bytes(SPECS.dump_json(output_specs(graph)))
        found[key] = {
            "program": len(member.program),
            "arena": member.arena_bytes,
            "bound": member.arena_lower_bound_bytes,
            "lowering_ms": lowering_ms,
        }
    return found


def _growth_bytes(folder: Path, key: MemberKey) -> int:
    """Anonymous memory that steps of one member add to a process that has opened it."""
    done = subprocess.run(
        [sys.executable, "-m", "quadloom_benchmarks.executorch_memory", str(folder), key.label],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise QuadloomError(
            f"the process for {key.label} ended with status {done.returncode}", remedy="its own error stands above"
        )
    return int(json.loads(done.stdout))


def main() -> None:
    """``FOLDER LABEL``: run a few steps and print the growth in bytes."""
    from quadloom_runtime.engines.engine import Batch
    from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine
    from quadloom_runtime.memory import StepMemoryMeter

    folder, label = Path(sys.argv[1]), sys.argv[2]
    inputs, outputs = (
        SPECS.validate_json((folder / f"{label}.{kind}.json").read_bytes()) for kind in ("inputs", "outputs")
    )
    engine = ExecutorchTrainingEngine(
        folder / f"{label}.pte", folder / "weights.ptd", inputs=inputs, outputs=outputs, label=label
    )
    parameters = load_file(folder / "parameters.safetensors")
    shape = [size or 1 for size in next(spec.shape for spec in inputs if spec.name == "input_ids")]
    random = np.random.default_rng(0)
    ids = random.integers(5, 1000, shape)
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids), random.integers(0, 2, shape[0]))
    meter = StepMemoryMeter()
    for _ in range(STEPS):
        with meter:
            engine.step(parameters, batch)
    print(json.dumps(meter.peak_bytes))


if __name__ == "__main__":
    main()
