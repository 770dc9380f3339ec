"""A language model's members in ExecuTorch have the gradients that PyTorch eager has."""

from pathlib import Path

import pytest
import torch
from tests.export.causal_lm.test_language_model_members import relative_l2
from tests.export.conftest import arrays, as_batch
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.lowering.executorch import input_specs, lower_to_executorch, output_specs, save, weights_file
from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine, ExecutorchTrainingEngine

pytest.importorskip("executorch")

BATCH_SIZE = 8


@pytest.fixture(scope="module")
def weights(make_language_model) -> Path:
    tiny = make_language_model("llama")
    path = tiny.folder / "weights.ptd"
    save(weights_file(tiny.training, tiny.evaluation), path)
    return path


@pytest.mark.parametrize(("depth", "quantized_layers", "largest_error"), [(1, 0, 1e-5), (1, 1, 0.02)])
def test_members_have_the_gradients_of_pytorch(llama, weights, depth, quantized_layers, largest_error):
    graph = llama.member(depth, quantized_layers)
    lowered = lower_to_executorch(graph)
    path = llama.folder / f"d{depth}-q{quantized_layers}.pte"
    save(lowered.program, path)
    engine = ExecutorchTrainingEngine(
        path, weights, inputs=input_specs(graph), outputs=output_specs(graph), label=path.stem
    )
    for rows in (BATCH_SIZE, 3):
        parameters, batch = llama.parameters(), llama.batch(rows)
        expected = llama.eager(parameters, batch)
        found = engine.step(arrays(parameters), as_batch(batch))
        assert relative_l2(found.gradients, expected.gradients) <= largest_error
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)
    assert lowered.arena_bytes <= 1.01 * lowered.arena_lower_bound_bytes


def test_the_evaluation_has_the_loss_of_pytorch_and_no_logits(llama, weights):
    graph, path = llama.evaluation, llama.folder / "eval.pte"
    save(lower_to_executorch(graph).program, path)
    engine = ExecutorchEvaluationEngine(path, weights, inputs=input_specs(graph), outputs=output_specs(graph))
    parameters, batch = llama.parameters(), llama.batch(5)
    expected, found = llama.eager(parameters, batch), engine.evaluate(arrays(parameters), as_batch(batch))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)
    assert found.logits is None


def test_the_runtime_s_softmax_over_a_vocabulary_keeps_the_tail():
    """Its own kernel adds 49,152 terms up one by one and is off by 2e-4: 0.3 % of a gradient."""
    from executorch.extension.pybindings import portable_lib

    logits = 2.5 * torch.randn(4, 49_152, generator=torch.Generator().manual_seed(0))
    logits[:, :50] += 9
    graph = fx.Graph()
    given = graph.placeholder("logits")
    given.meta = {"phase": "forward", "layer": "head", "role": "batch", "key": "logits"}
    given.meta |= {key: mode.from_tensor(logits) for key, mode in SHAPE_MODES.items()}
    graph.output((emit(graph, torch.ops.aten._softmax.default, (given, 1, False), like=given),))
    joint = JointGraph(graph, ("probabilities",), (), {}, layers=1, depth=0, batch_size=4)
    module = portable_lib._load_for_executorch_from_buffer(lower_to_executorch(joint).program)
    (found,) = module.forward([logits])
    expected = torch.softmax(logits.double(), 1)
    assert float((found - expected).norm() / expected.norm()) <= 3e-5
