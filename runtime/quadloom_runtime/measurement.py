"""What a step of a member really takes on this machine, measured in a process of its own.

``python -m quadloom_runtime.measurement FOLDER KEY`` takes a member's key as JSON and prints one JSON object.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.memory import StepMemoryMeter

STEPS = 3
SHORTEST_S = 2.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ADAPTER_NAME = "adapter_model.safetensors"


@dataclass(frozen=True)
class StepMeasurement:
    """A training step on one thread.

    Attributes:
        peak_bytes: largest anonymous memory beyond the loaded, idle process, weights excluded.
        cpu_s: processor time of the quickest step.
    """

    peak_bytes: int
    cpu_s: float


def measure_member(folder: Path, key: MemberKey) -> StepMeasurement:
    """Measure in a fresh process, where no allocator holds memory of another member.

    Raises:
        QuadloomError: the process failed; its own error is part of the message.
    """
    command = [sys.executable, "-m", "quadloom_runtime.measurement", str(folder), key.model_dump_json()]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise QuadloomError(
            f"member {key.label} cannot be measured: {reason}",
            remedy="export without --measure, or install the package of its format",
        )
    return StepMeasurement(**json.loads(done.stdout))


def measure_here(folder: Path, key: MemberKey) -> StepMeasurement:
    """Measure in this process, which has done nothing else: `STEPS` steps, and as many as `SHORTEST_S` hold."""
    manifest = load_manifest(folder)
    engine = open_training_engine(folder, manifest, key, threads=1)
    adapter = next(each.path for each in manifest.adapter if Path(each.path).name == ADAPTER_NAME)
    parameters = read_parameters(folder / adapter, manifest.parameters, remedy="export the family again")
    batch = _full_batch(manifest)
    meter = StepMemoryMeter()
    seconds: list[float] = []
    while len(seconds) < STEPS or sum(seconds) < SHORTEST_S:
        with meter:
            started = time.process_time()
            engine.step(parameters, batch)
            seconds.append(time.process_time() - started)
    return StepMeasurement(meter.peak_bytes, min(seconds))


def _full_batch(manifest: FamilyManifest) -> Batch:
    """Neither memory nor time depends on which tokens they are."""
    ones = np.ones((manifest.batch.batch_size, manifest.batch.sequence_length), dtype=np.int64)
    labels = ones[:, 0] * 0 if manifest.task.num_labels is not None else ones
    return Batch(ones, ones, ones * 0, labels)


def main() -> None:
    """What the fresh process does."""
    key = MemberKey.model_validate_json(sys.argv[2])
    print(json.dumps(asdict(measure_here(Path(sys.argv[1]), key))))


if __name__ == "__main__":
    main()
