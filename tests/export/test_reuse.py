"""What the backward makes twice, and may keep instead: the same results, no more memory."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.liveness import plan_memory
from quadloom_export.passes.quantize import StashFormat, StashFormats, quantize_stash
from quadloom_export.passes.reuse import reuse
from quadloom_export.passes.stash import stash_bytes
from quadloom_export.passes.weight_only import is_weight_copy
from quadloom_export.pipeline import at_depth

LAYERS = 3
aten = torch.ops.aten
quadloom = torch.ops.quadloom


def lean(tiny) -> JointGraph:
    """Half of the forward made again, from tensors that are all quantized."""
    graph = at_depth(tiny.training, LAYERS, recompute=0.5)
    return quantize_stash(graph, quantized_layers=LAYERS, formats=StashFormats(StashFormat(8, 16)))


def count(joint: JointGraph, target) -> int:
    return Counter(node.target for node in joint.nodes)[target]


def test_the_backward_restores_fewer_tensors_for_the_same_results_at_the_same_peak(tiny):
    before = lean(tiny)
    after = reuse(before)
    assert count(after, quadloom.dequantize.default) < count(before, quadloom.dequantize.default)
    assert plan_memory(after).peak_bytes == plan_memory(before).peak_bytes
    assert stash_bytes(after) == stash_bytes(before)
    found, expected = (graph.run(tiny.parameters(), tiny.batch(5)) for graph in (after, before))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_stored_weight_is_copied_for_each_of_its_readers(make_tiny):
    before = lean(make_tiny("bert", int8=True))
    copies = [sum(map(is_weight_copy, graph.nodes)) for graph in (before, reuse(before))]
    assert copies[0] == copies[1] > 0


def chain(*, wide_in_between: bool) -> JointGraph:
    """``exp(x)`` twice in the backward, with a sum over four times as much memory between the two or behind both."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta = {"phase": "backward", "layer": 0, "role": "batch", "key": "x"}
    x.meta |= {key: mode.from_tensor(torch.zeros(4, 6)) for key, mode in SHAPE_MODES.items()}

    def wide() -> fx.Node:
        return emit(graph, aten.sum.default, (emit(graph, aten.cat.default, ([x] * 4,), like=x),), like=x)

    first = emit(graph, aten.sum.default, (emit(graph, aten.exp.default, (x,), like=x),), like=x)
    between = [wide()] if wide_in_between else []
    second = emit(graph, aten.amax.default, (emit(graph, aten.exp.default, (x,), like=x),), like=x)
    results = (first, second, *between, *([] if wide_in_between else [wide()]))
    graph.output(results)
    return JointGraph(graph, tuple(map(str, range(3))), parameters=(), frozen={}, layers=1, depth=1, batch_size=4)


@pytest.mark.parametrize("wide_in_between", [True, False])
def test_a_tensor_waits_for_its_next_reader_unless_the_peak_lies_in_between(wide_in_between):
    joint = chain(wide_in_between=wide_in_between)
    assert count(reuse(joint), aten.exp.default) == (2 if wide_in_between else 1)


@st.composite
def repetitive_graphs(draw):
    """A few operators, which often compute the same, over earlier values of the backward."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta = {"phase": "backward", "layer": 0, "role": "batch", "key": "x"}
    source.meta |= {key: mode.from_tensor(torch.zeros(4, 6)) for key, mode in SHAPE_MODES.items()}
    values = [source]
    for _ in range(draw(st.integers(2, 16))):
        a, b = draw(st.sampled_from(values[-4:])), draw(st.sampled_from([source, *values[-2:]]))
        kind = draw(st.sampled_from(["sum", "exponential", "view", "twice", "half"]))
        if kind == "sum":
            values.append(emit(graph, aten.add.Tensor, (_flat(graph, a), _flat(graph, b)), like=source))
        elif kind == "exponential":
            values.append(emit(graph, aten.sin.default, (_flat(graph, a),), like=source))
        elif kind == "view":
            values.append(emit(graph, aten.reshape.default, (a, [-1, 1]), like=source))
        elif kind == "twice":
            both = emit(graph, aten.cat.default, ([_flat(graph, a)] * 2,), like=source)
            values.append(emit(graph, aten.slice.Tensor, (both, 0, 3, 27), like=source))
        else:
            values.append(emit(graph, aten.mul.Tensor, (a, 0.5), like=source))
    results = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    graph.output(tuple(results))
    names = tuple(f"result{index}" for index in range(len(results)))
    return JointGraph(graph, names, parameters=(), frozen={}, layers=1, depth=1, batch_size=4)


def _flat(graph: fx.Graph, node: fx.Node) -> fx.Node:
    flat = emit(graph, aten.reshape.default, (node, [-1]), like=node)
    return emit(graph, aten.slice.Tensor, (flat, 0, 0, 24), like=node)


@settings(deadline=None)
@given(repetitive_graphs())
def test_no_graph_changes_its_results_or_takes_more_memory(joint):
    after = reuse(joint)
    assert len(after.nodes) <= len(joint.nodes)
    assert plan_memory(after).peak_bytes <= plan_memory(joint).peak_bytes
    x = {"x": torch.linspace(-1, 1, 24).reshape(4, 6)}
    found, expected = after.run({}, x), joint.run({}, x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
