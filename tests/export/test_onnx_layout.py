"""The file order that makes ONNX Runtime's default order the planned one: as predicted, and as really run."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime import SessionOptions

from quadloom_export.lowering.onnx import lower_to_onnx, translate_graph
from quadloom_export.lowering.onnx_layout import default_execution_order, lay_out
from quadloom_runtime.engines.onnx import session_options

LAYERS = 3


@st.composite
def random_nodes(draw):
    """Nodes in a valid order; each reads up to three earlier values or the input ``x``, some make two values."""
    values, nodes = ["x"], []
    for index in range(draw(st.integers(1, 15))):
        read = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        if draw(st.booleans()):
            nodes.append(helper.make_node("Sum", read, [f"v{index}"], name=f"n{index}"))
            values.append(f"v{index}")
        else:
            made = [f"v{index}", f"w{index}"]
            nodes.append(helper.make_node("TopK", [read[0], "k"], made, name=f"n{index}"))
            values.append(made[0])  # the second value, int64, is read by nobody
    return nodes


def profiled_options(folder):
    """Session options that make ONNX Runtime write down what it runs."""
    options = SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


def executed_order(session, feeds):
    """Names of the nodes in the order in which ONNX Runtime ran them, from its own profile."""
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return [e["name"].removesuffix("_kernel_time") for e in events if e["name"].endswith("_kernel_time")]


def as_model(nodes):
    """A runnable model that returns the float values nobody reads."""
    k = helper.make_tensor("k", TensorProto.INT64, [1], [2])
    consumed = {name for node in nodes for name in node.input}
    results = [node.output[0] for node in nodes if node.op_type != "Shape" and node.output[0] not in consumed]
    results = results or [nodes[-1].output[0]]
    kinds = {node.output[0]: TensorProto.INT64 if node.op_type == "Shape" else TensorProto.FLOAT for node in nodes}
    outputs = [helper.make_tensor_value_info(name, kinds[name], None) for name in results]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph(nodes, "random", [x], outputs, initializer=[k])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@given(random_nodes())
def test_the_default_order_of_a_laid_out_file_is_the_wanted_one(nodes):
    laid_out = lay_out(nodes)
    order = [laid_out[index].name for index in default_execution_order(laid_out)]
    assert sorted(order) == sorted(node.name for node in laid_out), "every node runs once"
    assert [name for name in order if not name.endswith("/order")] == [node.name for node in nodes]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_nodes(), st.booleans())
def test_onnx_runtime_runs_nodes_in_the_predicted_order(tmp_path, nodes, laid_out):
    nodes = lay_out(nodes) if laid_out else nodes
    options = profiled_options(tmp_path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(as_model(nodes).SerializeToString(), options)
    ran = executed_order(session, {"x": np.ones(2, np.float32)})
    assert ran == [nodes[index].name for index in default_execution_order(nodes)]


def test_only_free_leaves_are_added(bert):
    model = translate_graph(bert.member(LAYERS, LAYERS), bert.weights).model()
    added = [node for node in model.graph.node if node.name.endswith("/order")]
    assert {node.op_type for node in added} == {"Shape"}
    assert 0 < len(added) < len(model.graph.node)


@pytest.mark.parametrize("quantized", [0, LAYERS])
def test_a_member_runs_in_the_order_of_its_graph(tiny, monkeypatch, quantized):
    """A profile under the engine's own options, against the order in which the lowering emitted the nodes."""
    graph = tiny.member(LAYERS, quantized)
    path = tiny.folder / f"profiled-{quantized}.onnx"
    path.write_bytes(lower_to_onnx(graph, tiny.weights).content)
    feeds = {name: value.numpy() for name, value in {**tiny.parameters(), **tiny.batch(3)}.items()}
    monkeypatch.setattr(onnxruntime, "SessionOptions", lambda: profiled_options(tiny.folder))
    options = session_options(threads=1)
    options.add_session_config_entry("session.use_env_allocators", "0")
    session = onnxruntime.InferenceSession(path, options)
    ran = executed_order(session, {each.name: feeds[each.name] for each in session.get_inputs()})
    emitted = [node.name for node in translate_graph(graph, tiny.weights).nodes]
    assert [name for name in ran if not name.endswith("/order")] == emitted
