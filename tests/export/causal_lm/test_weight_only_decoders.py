"""Language models with INT8 weights against PyTorch eager with weights that were rounded by other code."""

import pytest
import torch
from tests.export.causal_lm.test_language_model_members import relative_l2
from tests.export.conftest import arrays, as_batch

from quadloom_export.lowering.executorch import input_specs, lower_to_executorch, output_specs, save, weights_file
from quadloom_export.passes.weight_only import is_weight_copy
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine

LAYERS = 3


@pytest.mark.parametrize("name", ["llama", "llama-all-linear", "qwen2", "gpt-neox"])
@pytest.mark.parametrize(("quantized", "least", "most"), [(0, 0.0, 1e-5), (LAYERS, 1e-5, 0.02)])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_onnx_members_have_the_gradients_of_pytorch(make_language_model, name, quantized, least, most, rows):
    tiny = make_language_model(name, int8=True)
    parameters, batch = tiny.parameters(), tiny.batch(rows)
    expected = tiny.eager(parameters, batch)
    found = tiny.step(parameters, batch, quantized_layers=quantized)
    assert least <= relative_l2(found.gradients, expected.gradients) <= most
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize(("quantized", "least", "most"), [(0, 0.0, 1e-5), (LAYERS, 1e-5, 0.02)])
def test_executorch_members_have_the_gradients_of_pytorch(make_language_model, quantized, least, most):
    pytest.importorskip("executorch")
    tiny = make_language_model("llama", int8=True)
    graph = tiny.member(LAYERS, quantized)
    program, weights = tiny.folder / f"d3-q{quantized}.pte", tiny.folder / "weights.ptd"
    save(lower_to_executorch(graph).program, program)
    save(weights_file(tiny.training, tiny.evaluation), weights)
    engine = ExecutorchTrainingEngine(
        program, weights, inputs=input_specs(graph), outputs=output_specs(graph), label=program.stem
    )
    for rows in (8, 1):
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected, found = tiny.eager(parameters, batch), engine.step(arrays(parameters), as_batch(batch))
        assert least <= relative_l2(found.gradients, expected.gradients) <= most


def test_head_and_embeddings_stay_as_they_are(make_language_model):
    tiny = make_language_model("llama", int8=True)
    for key in tiny.model.int8_weights:
        assert ".layers." in key
    assert tiny.training.frozen["model.embed_tokens.weight"].dtype == torch.float32
    layers = {node.meta["layer"] for node in tiny.training.nodes if is_weight_copy(node)}
    assert layers == set(range(LAYERS))
