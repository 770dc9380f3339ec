"""One contender in a process of its own, so that neither allocator nor libraries of another disturb it.

``python -m quadloom_benchmarks.worker KIND FOLDER ...`` loads what KIND needs and nothing else, on the family in FOLDER
and always the same examples: for a member on ONNX, torch is never imported. For every line on standard input it makes
one training step and answers with one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from quadloom_benchmarks.families import random_batch
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.memory import StepMemoryMeter
from quadloom_runtime.trainer import accumulate

Step = Callable[[], object]


def main() -> None:
    """Run a step per line of input."""
    kind, folder, *what = sys.argv[1:]
    step = OPENERS[kind](Path(folder), *what)
    meter = StepMemoryMeter()
    for _ in sys.stdin:
        with meter:
            started = time.process_time()
            step()
            cpu_s = time.process_time() - started
        print(json.dumps({"cpu_s": cpu_s, "peak_bytes": meter.peak_bytes}), flush=True)


def member_step(folder: Path, key: str, accumulation: str) -> Step:
    """A step of the member with this key, as JSON, in its engine, one thread."""
    manifest = load_manifest(folder)
    engine = open_training_engine(folder, manifest, MemberKey.model_validate_json(key), threads=1)
    parameters = load_file(folder / "adapter/adapter_model.safetensors")
    group = [random_batch(manifest, seed=index) for index in range(int(accumulation))]
    if len(group) == 1:
        return lambda: engine.step(parameters, group[0])
    return lambda: accumulate(engine, parameters, group)


def pytorch_step(folder: Path, model: str, accumulation: str, *checkpointing: str) -> Step:
    """A step of PyTorch + PEFT."""
    from quadloom_benchmarks.rivals.pytorch import PyTorchRival

    return PyTorchRival(folder, model, checkpointing=bool(checkpointing), accumulation=int(accumulation)).step


def executorch_step(folder: Path, program: str) -> Step:
    """A step of ExecuTorch's training module."""
    from quadloom_benchmarks.rivals.executorch_training import ExecutorchTrainingRival

    return ExecutorchTrainingRival(folder, Path(program)).step


def ort_artifacts_step(folder: Path, artifacts: str, *lean: str) -> Step:
    """A step of onnxruntime-training's module."""
    from quadloom_benchmarks.rivals.ort_artifacts import OrtArtifactsRival

    return OrtArtifactsRival(folder, Path(artifacts), lean=bool(lean)).step


OPENERS: dict[str, Callable[..., Step]] = {
    "member": member_step,
    "pytorch": pytorch_step,
    "executorch-training": executorch_step,
    "ort-artifacts": ort_artifacts_step,
}


if __name__ == "__main__":
    main()
