"""The files of a member for onnxruntime-training, looked at without that package."""

from itertools import pairwise

import numpy as np
import onnx
import pytest

from quadloom_export.lowering.onnx import translate_graph
from quadloom_export.lowering.onnx_layout import default_execution_order
from quadloom_export.lowering.ort_checkpoint import checkpoint_bytes
from quadloom_export.lowering.ort_training import save_ort_training, trained_names, training_model
from quadloom_runtime.engines.onnx_files import check_graph_files
from quadloom_runtime.engines.ort_training import CHECKPOINT_SUFFIX

LAYERS = 3


def executed(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Computing nodes in the order in which ONNX Runtime runs them."""
    nodes = model.graph.node
    return [nodes[index] for index in default_execution_order(list(nodes)) if not nodes[index].name.endswith("/order")]


@pytest.fixture(params=[(0, 0), (1, 0), (LAYERS, 0), (LAYERS, LAYERS)], ids=["d0", "d1", "d3", "d3-q3"])
def member(request, bert):
    """What is looked at here does not depend on the architecture."""
    return bert.member(*request.param)


def test_only_accumulators_are_added_and_each_runs_right_after_its_gradient(bert, member):
    packaged = executed(training_model(member, bert.weights))
    plain = executed(translate_graph(member, bert.weights).model())
    assert [node.name for node in packaged if node.op_type != "InPlaceAccumulatorV2"] == [node.name for node in plain]
    accumulated = set()
    for before, node in pairwise(packaged):
        if node.op_type == "InPlaceAccumulatorV2":
            buffer, gradient, reset = node.input
            assert gradient in before.output
            assert (buffer, reset) == (f"{gradient}.accumulation.buffer", "lazy_reset_grad")
            accumulated.add(gradient)
    assert accumulated == {f"{name}_grad" for name in trained_names(member)}


def test_inputs_and_outputs_follow_the_training_api(bert, member):
    graph = training_model(member, bert.weights).graph
    trained = trained_names(member)
    shapes = {row.name: row.shape for row in member.parameters}
    found = {each.name: tuple(size.dim_value for size in each.type.tensor_type.shape.dim) for each in graph.input}
    batch = list(member.inputs_of("batch"))
    buffers = [f"{name}_grad.accumulation.buffer" for name in trained]
    assert list(found) == [*batch, *shapes, *buffers, "lazy_reset_grad"]
    assert all(found[buffer] == shapes[name] for buffer, name in zip(buffers, trained, strict=True))
    flags = [f"{name}_grad.accumulation.out" for name in trained]
    assert [each.name for each in graph.output] == ["loss", "correct_count", "example_count", *flags]


def test_the_graph_reads_the_weights_beside_it_and_the_checkpoint_holds_none_of_them(bert, tmp_path):
    graph, weights = tmp_path / "ort-train-d01-q00.onnx", tmp_path / "weights.bin"
    weights.write_bytes((bert.folder / "weights.bin").read_bytes())
    parameters = {name: value.numpy() for name, value in bert.parameters().items()}
    save_ort_training(graph, bert.member(1), parameters, weights=bert.weights)
    check_graph_files(graph, weights)
    assert [each for each in onnx.load(graph, load_external_data=False).graph.initializer if each.external_data]
    assert {each.suffix for each in tmp_path.iterdir()} == {".onnx", ".bin", CHECKPOINT_SUFFIX}
    content = graph.with_suffix(CHECKPOINT_SUFFIX).read_bytes()
    assert len(content) < sum(value.nbytes for value in parameters.values()) + 256 * (len(parameters) + 1)
    for name, value in parameters.items():
        assert name.encode() in content
        assert value.tobytes() in content


def test_the_same_parameters_give_the_same_checkpoint():
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    assert checkpoint_bytes(trained=values, untrained={}) == checkpoint_bytes(trained=dict(values), untrained={})
    assert checkpoint_bytes(trained=values, untrained={}) != checkpoint_bytes(trained={}, untrained=values)
