"""Members with INT8 weights, in every engine, against PyTorch eager with weights that were rounded by other code."""

from pathlib import Path

import onnx
import pytest
from tests.export.conftest import arrays, as_batch
from tests.export.test_gradient_parity import relative_l2, split_head

from quadloom_export.lowering.executorch import input_specs, lower_to_executorch, output_specs, save, weights_file
from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine, ExecutorchTrainingEngine

LAYERS = 3


def errors(tiny, found, expected) -> tuple[float, float]:
    """Of the LoRA tensors and of the head, which is so much larger that together it would hide them."""
    lora, head = split_head(found, tiny.layer_of())
    return relative_l2(lora, expected) if lora else 0.0, relative_l2(head, expected)


@pytest.mark.parametrize("all_linear", [False, True], ids=["query-value", "all-linear"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "deberta"])
class TestOnnx:
    @pytest.mark.parametrize("rows", [1, 8, 40])
    @pytest.mark.parametrize("depth", [0, LAYERS])
    def test_unquantized_members_have_the_gradients_of_pytorch(self, make_tiny, name, all_linear, depth, rows):
        tiny = make_tiny(name, all_linear, int8=True)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected, found = tiny.eager(parameters, batch), tiny.step(parameters, batch, depth=depth)
        assert max(errors(tiny, found.gradients, expected.gradients)) <= 1e-5
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)

    def test_a_quantized_stash_costs_what_it_costs_with_float_weights(self, make_tiny, name, all_linear):
        tiny = make_tiny(name, all_linear, int8=True)
        parameters, batch = tiny.parameters(), tiny.batch(8)
        expected = tiny.eager(parameters, batch)
        found = tiny.step(parameters, batch, depth=LAYERS, quantized_layers=LAYERS)
        lora, head = errors(tiny, found.gradients, expected.gradients)
        assert 1e-5 < lora <= 0.01
        assert head <= 1e-5
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)

    def test_the_evaluation_is_that_of_pytorch(self, make_tiny, name, all_linear):
        tiny = make_tiny(name, all_linear, int8=True)
        parameters, batch = tiny.parameters(), tiny.batch(5)
        assert tiny.evaluate(parameters, batch).logits == pytest.approx(
            tiny.eager(parameters, batch).logits, rel=1e-4, abs=1e-6
        )


def test_rounding_moves_the_gradient_so_the_reference_above_tells_it_apart(make_tiny):
    plain, rounded = make_tiny("bert"), make_tiny("bert", int8=True)
    found = rounded.eager(rounded.parameters(), rounded.batch(8)).gradients
    expected = plain.eager(plain.parameters(), plain.batch(8)).gradients
    assert 1e-3 < errors(plain, found, expected)[0] < 0.05


def test_an_onnx_file_holds_integers_and_dequantizes_each_before_its_product(make_tiny):
    tiny = make_tiny("bert", int8=True)
    tiny.step(tiny.parameters(), tiny.batch(8), depth=LAYERS)
    model = onnx.load(tiny.folder / f"d{LAYERS}-q0-8.onnx", load_external_data=False)
    types = {each.name: each.data_type for each in model.graph.initializer}
    for key in tiny.model.int8_weights:
        assert types[key] == onnx.TensorProto.INT8
        readers = [node for node in model.graph.node if key in node.input]
        assert readers
        assert {node.op_type for node in readers} == {"DequantizeLinear"}


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
class TestExecutorch:
    @pytest.mark.parametrize(("quantized", "least", "most"), [(0, 0.0, 1e-5), (LAYERS, 1e-5, 0.01)])
    def test_members_have_the_gradients_of_pytorch(self, make_tiny, backend, quantized, least, most):
        pytest.importorskip("executorch")
        tiny = make_tiny("bert", int8=True)
        graph = tiny.member(LAYERS, quantized)
        lowered = lower_to_executorch(graph, backend=backend)
        path = tiny.folder / f"{backend}-{quantized}.pte"
        save(lowered.program, path)
        engine = ExecutorchTrainingEngine(
            path, executorch_weights(tiny), inputs=input_specs(graph), outputs=output_specs(graph), label=path.stem
        )
        for rows in (8, 1):
            parameters, batch = tiny.parameters(), tiny.batch(rows)
            expected, found = tiny.eager(parameters, batch), engine.step(arrays(parameters), as_batch(batch))
            lora, head = errors(tiny, found.gradients, expected.gradients)
            assert least <= lora <= most
            assert head <= 1e-5
            assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        # Scales lie with the weights: of those a program holds none.
        assert len(lowered.program) < sum(each.values.numel() for each in tiny.model.int8_weights.values()) * 20
        assert lowered.arena_bytes <= 1.01 * lowered.arena_lower_bound_bytes

    def test_the_evaluation_is_that_of_pytorch(self, make_tiny, backend):
        pytest.importorskip("executorch")
        tiny = make_tiny("bert", int8=True)
        graph, path = tiny.evaluation, tiny.folder / f"eval-{backend}.pte"
        save(lower_to_executorch(graph, backend=backend).program, path)
        engine = ExecutorchEvaluationEngine(
            path, executorch_weights(tiny), inputs=input_specs(graph), outputs=output_specs(graph)
        )
        parameters, batch = tiny.parameters(), tiny.batch(5)
        expected, found = tiny.eager(parameters, batch), engine.evaluate(arrays(parameters), as_batch(batch))
        assert found.logits == pytest.approx(expected.logits, rel=1e-4, abs=1e-5)


def executorch_weights(tiny) -> Path:
    path: Path = tiny.folder / "weights.ptd"
    if not path.exists():
        save(weights_file(tiny.training, tiny.evaluation), path)
    return path
