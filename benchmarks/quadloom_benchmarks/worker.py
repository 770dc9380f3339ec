"""One contender in a process of its own, so that neither allocator nor libraries of another disturb it.

``python -m quadloom_benchmarks.worker KIND FOLDER WHAT`` with KIND ``member`` (WHAT is ``D,Q``; torch is never
imported) or ``eager`` (WHAT is the model folder; PyTorch eager + PEFT on the same batch). For every line on standard
input it runs one training step and answers with one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from quadloom_benchmarks.families import parse_members, random_batch
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.memory import StepMemoryMeter


def main() -> None:
    """Run a step per line of input."""
    kind, folder, what = sys.argv[1:4]
    step = member_step(Path(folder), what) if kind == "member" else eager_step(Path(folder), Path(what))
    meter = StepMemoryMeter()
    for _ in sys.stdin:
        with meter:
            started = time.process_time()
            step()
            cpu_s = time.process_time() - started
        print(json.dumps({"cpu_s": cpu_s, "peak_bytes": meter.peak_bytes}), flush=True)


def member_step(folder: Path, member: str) -> Callable[[], object]:
    """A step of a member in ONNX Runtime, one thread."""
    manifest = load_manifest(folder)
    (key,) = parse_members(member)
    engine = open_training_engine(folder, manifest, key, threads=1)
    parameters = load_file(folder / "adapter/adapter_model.safetensors")
    batch = random_batch(manifest)
    return lambda: engine.step(parameters, batch)


def eager_step(folder: Path, model: Path) -> Callable[[], object]:
    """A step of PyTorch eager + PEFT with the family's adapter, one thread, dropout off."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from quadloom_export.pretrained import source_arguments

    torch.set_num_threads(1)
    manifest = load_manifest(folder)
    source = source_arguments(str(model))
    if manifest.task.num_labels is None:
        base = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(**source, num_labels=manifest.task.num_labels)
    tuned = PeftModel.from_pretrained(base, str(folder / "adapter"), is_trainable=True).eval()
    batch = random_batch(manifest)
    inputs = {
        "input_ids": torch.from_numpy(batch.input_ids),
        "attention_mask": torch.from_numpy(batch.attention_mask),
        "labels": torch.from_numpy(np.asarray(batch.labels)),
    }

    def step() -> None:
        tuned.zero_grad()
        tuned(**inputs).loss.backward()

    return step


if __name__ == "__main__":
    main()
