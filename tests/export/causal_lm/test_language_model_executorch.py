"""A language model's members in ExecuTorch have the gradients that PyTorch eager has."""

from pathlib import Path

import pytest
from tests.export.causal_lm.test_language_model_members import relative_l2
from tests.export.conftest import arrays, as_batch

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
