"""Engines in processes of their own: memory limits, threads and memory are a process's."""

import json
import pickle
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.engines.formats import Format, Opening, Source, arrays
from transformers import AutoModelForSequenceClassification, BertConfig

from quadloom_export.lowering.executorch import lower_to_executorch
from quadloom_export.model import add_lora
from quadloom_export.passes.quantize import StashFormats
from quadloom_export.pipeline import at_depth, at_quantization, evaluation_graph, training_graph
from quadloom_runtime.engines.engine import Batch

LAYERS, ROWS, LENGTH, VOCABULARY = 2, 16, 64, 100
MB = 10**6
HEADER = """
import pickle, sys
from pathlib import Path
from quadloom_runtime.emulation.limits import step_memory_limit
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.memory import StepMemoryMeter, process_memory
opening, parameters, batch = pickle.loads(Path(sys.argv[1]).read_bytes())
MB = 10**6
"""


@cache
def wide_source(root: Any, folder_name: str) -> Source:
    """Two layers of MiniLM's shape: large enough for memory to be measured, small enough to be lowered in seconds."""
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=LAYERS,
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
        vocab_size=VOCABULARY,
    )
    base = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    model = add_lora(base, rank=8, alpha=16.0)
    shape = {"batch_size": ROWS, "sequence_length": LENGTH}
    folder = root / folder_name
    folder.mkdir(exist_ok=True)
    return Source(training_graph(model, **shape), evaluation_graph(model, **shape), folder, arrays(model.trainable))


@cache
def wide_opening(format_: Format, root: Any, quantized_layers: int) -> Opening:
    source = wide_source(root, f"wide-{type(format_).__name__}")
    graph = at_depth(source.training, LAYERS)
    if quantized_layers:
        graph = at_quantization(graph, quantized_layers, StashFormats())
    return format_.training(source, graph, f"d{LAYERS:02d}-q{quantized_layers:02d}")


def run(format_: Format, root: Any, quantized_layers: int, body: str) -> Any:
    """Run `body` in a fresh process that has not opened the engine yet; it prints JSON."""
    opening = wide_opening(format_, root, quantized_layers)
    source = wide_source(root, f"wide-{type(format_).__name__}")
    random = np.random.default_rng(0)
    ids = random.integers(5, VOCABULARY, (ROWS, LENGTH))
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids), random.integers(0, 2, ROWS))
    path = source.folder / "call.pickle"
    path.write_bytes(pickle.dumps((opening, source.parameters, batch)))
    done = subprocess.run(
        [sys.executable, "-c", HEADER + body, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_beyond_the_limit_is_reported_as_out_of_memory_and_the_engine_lives_on(format_, tiny_root):
    found = run(
        format_,
        tiny_root,
        0,
        """
import json
engine = opening.open()
caught = None
try:
    with step_memory_limit(12 * MB, member="d02-q00"):
        engine.step(parameters, batch)
except StepOutOfMemoryError as error:
    caught = error.cause
after = engine.step(parameters, batch)
expected = opening.open().step(parameters, batch)
same = all((after.gradients[name] == value).all() for name, value in expected.gradients.items())
print(json.dumps({"caught": caught, "same": bool(same), "loss": after.loss}))
""",
    )
    assert "out of memory: a step of member d02-q00 does not fit the limit of 12.0 MB" in found["caught"]
    assert found["same"]
    assert 0.1 < found["loss"] < 2


def test_as_many_threads_run_as_were_asked_for(format_, tiny_root):
    body = """
import json, os, time
os.environ["OMP_NUM_THREADS"] = "1"
engine = opening.open(threads={threads})
engine.step(parameters, batch)
before = {{int(each): Path(f"/proc/self/task/{{each}}/stat").read_text() for each in os.listdir("/proc/self/task")}}
def ticks(line):
    fields = line.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
for _ in range(4):
    engine.step(parameters, batch)
busy = [each for each, line in before.items()
        if ticks(Path(f"/proc/self/task/{{each}}/stat").read_text()) - ticks(line) > 5]
print(json.dumps(len(busy)))
"""
    assert run(format_, tiny_root, 0, body.format(threads=1)) == 1
    assert run(format_, tiny_root, 0, body.format(threads=2)) == 2


MEASURE_GROWTH = """
import json
engine = opening.open()
meter = StepMemoryMeter()
for _ in range(3):
    with meter:
        engine.step(parameters, batch)
print(json.dumps(meter.peak_bytes))
"""


@pytest.mark.parametrize("quantized_layers", [0, LAYERS])
def test_an_executorch_step_grows_the_process_by_its_arena(tiny_root, quantized_layers):
    from tests.export.engines.formats import FORMATS

    format_ = FORMATS["executorch"]
    format_.require()
    graph = at_depth(wide_source(tiny_root, "wide-ExecutorchFormat").training, LAYERS)
    if quantized_layers:
        graph = at_quantization(graph, quantized_layers, StashFormats())
    arena_bytes = lower_to_executorch(graph).arena_bytes
    growth_bytes = run(format_, tiny_root, quantized_layers, MEASURE_GROWTH)
    assert arena_bytes < growth_bytes <= 1.03 * arena_bytes + 10 * MB
