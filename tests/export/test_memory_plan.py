"""The liveness plan against the definition of liveness, evaluated step by step without any bookkeeping."""

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.liveness import overwritten, plan_memory, storage
from quadloom_export.passes.order import delay

LAYERS = 3
aten = torch.ops.aten


def live_bytes(joint, step):
    """Bytes alive while node number `step` runs: made by then, and still to be read (or returned) from then on."""
    position = {node: index for index, node in enumerate(joint.nodes)}
    returned = set(joint.results.values())
    total = 0
    for node in joint.nodes:
        if node.target == aten.reshape.default or not isinstance(node.meta["val"], torch.Tensor):
            continue  # a view lies in its source's memory; several outputs are counted one by one
        made_at = position[node.args[0] if node.target is operator.getitem else node]
        seen = with_views(node)
        read_at = [position[user] for each in seen for user in each.users if user.op == "call_function"]
        if made_at <= step and (returned & set(seen) or max([made_at, *read_at]) >= step):
            total += node.meta["val"].numel() * node.meta["val"].element_size()
    return total


def with_views(node):
    found = [node]
    for each in found:
        found += [user for user in each.users if user.target == aten.reshape.default]
    return found


@st.composite
def random_graphs(draw):
    """Elementwise operators, views and layer norms over random earlier values; a random choice of them is returned."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta = {"phase": "forward", "layer": 0, "role": "batch", "key": "x"}
    source.meta |= {key: mode.from_tensor(torch.zeros(4, 6)) for key, mode in SHAPE_MODES.items()}
    values = [source]
    for _ in range(draw(st.integers(1, 14))):
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["add", "half", "view", "norm", "integers"]))
        if kind == "add":
            flat = [emit(graph, aten.reshape.default, (each, [-1]), like=source) for each in (a, b)]
            small = min(each.meta["val"].numel() for each in flat)
            flat = [emit(graph, aten.slice.Tensor, (each, 0, 0, small), like=source) for each in flat]
            values.append(emit(graph, aten.add.Tensor, tuple(flat), like=source))
        elif kind == "half":
            flat = emit(graph, aten.reshape.default, (a, [-1]), like=source)
            values.append(emit(graph, aten.slice.Tensor, (flat, 0, 0, 12), like=source))
        elif kind == "view":
            values.append(emit(graph, aten.reshape.default, (a, [-1, 1]), like=source))
        elif kind == "integers":
            values.append(emit(graph, aten.gt.Scalar, (a, 0.5), like=source))
        else:
            numbers = emit(graph, aten._to_copy.default, (a,), like=source, kwargs={"dtype": torch.float32})
            last = numbers.meta["val"].shape[-1]
            norm = emit(graph, aten.native_layer_norm.default, (numbers, [last], None, None, 1e-5), like=source)
            wanted = draw(st.sets(st.sampled_from([0, 1, 2]), min_size=1))
            values += [emit(graph, operator.getitem, (norm, index), like=source) for index in sorted(wanted)]
    results = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    graph.output(tuple(results))
    names = tuple(f"result{index}" for index in range(len(results)))
    return JointGraph(graph, names, parameters=(), frozen={}, layers=1, depth=1, batch_size=4)


@settings(deadline=None)
@given(random_graphs())
def test_the_peak_is_the_largest_sum_of_live_bytes(joint):
    expected = [live_bytes(joint, step) for step in range(len(joint.nodes))]
    plan = plan_memory(joint, in_place=False)
    assert plan.peak_bytes == max(expected)
    assert sum(size for _, size in plan.live) == plan.peak_bytes
    assert sum(item.size_bytes for item in plan.items) == plan.peak_bytes


@pytest.mark.parametrize(("depth", "quantized"), [(0, 0), (1, 0), (LAYERS, 0), (LAYERS, 2), (LAYERS, LAYERS)])
def test_the_peak_of_a_member_is_the_largest_sum_of_live_bytes(tiny, depth, quantized):
    joint = tiny.member(depth, quantized)
    plan = plan_memory(joint, in_place=False)
    names = [node.name for node in joint.nodes]
    at_peak = names.index(plan.peak_node)
    assert live_bytes(joint, at_peak) == plan.peak_bytes
    for step in {*range(0, len(names), 40), max(0, at_peak - 1), min(len(names) - 1, at_peak + 1)}:
        assert live_bytes(joint, step) <= plan.peak_bytes
    assert sum(item.size_bytes for item in plan.items) == plan.peak_bytes
    assert sum(item.tensors for item in plan.items) == len(plan.live)


def assert_nothing_is_read_after_it_was_overwritten(joint):
    """Replays the graph with one note per storage: whose values it holds now."""
    owner = overwritten(joint)
    holds = {}
    for node in joint.nodes:
        for read in node.all_input_nodes:
            source = storage(read)
            if source.op == "call_function":
                assert holds[owner.get(source, source)] is source
        if storage(node) is node:
            holds[owner.get(node, node)] = node
    for result in joint.results.values():
        source = storage(result)
        assert source.op != "call_function" or holds[owner.get(source, source)] is source


@settings(deadline=None)
@given(random_graphs())
def test_nothing_is_read_after_it_was_overwritten(joint):
    assert_nothing_is_read_after_it_was_overwritten(joint)
    assert plan_memory(joint).peak_bytes <= plan_memory(joint, in_place=False).peak_bytes


@pytest.mark.parametrize("quantized", [0, LAYERS])
def test_a_member_overwrites_what_it_no_longer_reads(tiny, quantized):
    joint = tiny.member(LAYERS, quantized)
    assert_nothing_is_read_after_it_was_overwritten(joint)
    softmax = [node for node in overwritten(joint) if node.target == torch.ops.aten._softmax.default]
    assert softmax


@settings(deadline=None)
@given(random_graphs())
def test_delaying_operators_keeps_the_results_and_never_raises_the_peak(joint):
    for node in joint.nodes:
        node.meta["phase"] = "backward"
    after = delay(joint)
    assert plan_memory(after).peak_bytes <= plan_memory(joint).peak_bytes
    assert {node.name for node in after.nodes} == {node.name for node in joint.nodes}
    seen = {node for node in after.graph.nodes if node.op == "placeholder"}
    for node in after.nodes:
        assert seen.issuperset(node.all_input_nodes)
        seen.add(node)


def test_the_peak_falls_with_quantized_layers_and_rises_with_depth(tiny):
    """The last layer works on one row per example: training it needs no more than the forward below it does."""
    by_quantization = [plan_memory(tiny.member(LAYERS, q)).peak_bytes for q in range(LAYERS + 1)]
    assert by_quantization == sorted(by_quantization, reverse=True)
    assert by_quantization[-1] < 0.75 * by_quantization[0]
    by_depth = [plan_memory(tiny.member(depth)).peak_bytes for depth in range(LAYERS + 1)]
    assert by_depth == sorted(by_depth)
    assert by_depth[1:] == sorted(set(by_depth[1:]))


def test_four_bits_need_less_than_eight(tiny):
    eight, four = (plan_memory(tiny.member(LAYERS, LAYERS, bits=bits)).peak_bytes for bits in (8, 4))
    assert four < eight


def test_the_table_separates_stash_from_transients(tiny):
    joint = tiny.member(LAYERS)
    items = plan_memory(joint).items
    assert {item.kind for item in items} >= {"stash", "transient"}
    assert [item.size_bytes for item in items] == sorted((item.size_bytes for item in items), reverse=True)
    softmax = [item for item in items if item.what.startswith("_softmax ")]
    assert softmax
    assert {item.kind for item in softmax} == {"stash"}, "attention probabilities wait for the backward"
