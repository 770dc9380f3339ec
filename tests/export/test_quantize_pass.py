"""What the stash quantization does to the order of a graph, and where its noise goes."""

import math

import numpy as np
import pytest
import torch
from torch import fx

from quadloom_export.graph import JointGraph, shape_of, val
from quadloom_export.passes.quantize import QUANTIZING, SMALLEST_QUANTIZED, StashFormat, quantized_elements, round_trip
from quadloom_export.passes.stash import saved_tensors, stash_bytes

LAYERS = 3
quadloom = torch.ops.quadloom


def stash_of_layers(graph, layers):
    """Stash nodes whose highest reader in the backward lies in one of `layers`: an own walk over the tags."""
    for node in graph.nodes:
        if node.meta["phase"] != "forward" or not isinstance(node.meta["val"], torch.Tensor):
            continue
        readers = [user for user in node.users if user.meta.get("phase") == "backward"]
        above = [LAYERS if user.meta["layer"] == "head" else user.meta["layer"] for user in readers]
        if above and max(above) in layers:
            yield node


def worth_quantizing(node):
    row = shape_of(node)[-1] if shape_of(node) else 1
    return val(node).dtype == torch.float32 and val(node).numel() >= SMALLEST_QUANTIZED and row >= 8


@pytest.mark.parametrize("quantized", [1, 2])
def test_noise_never_enters_the_gradients_of_the_layers_above(tiny, quantized):
    parameters, batch = tiny.parameters(), tiny.batch(8)
    exact = tiny.step(parameters, batch, depth=LAYERS).gradients
    noisy = tiny.step(parameters, batch, depth=LAYERS, quantized_layers=quantized).gradients
    for name, layer in tiny.layer_of().items():
        same = np.array_equal(exact[name], noisy[name])
        assert same == (layer == "head" or layer >= quantized), f"{name} of layer {layer}"


def test_noise_stays_below_when_only_some_layers_train(tiny):
    parameters, batch = tiny.parameters(), tiny.batch(8)
    exact, noisy = (tiny.step(parameters, batch, depth=2, quantized_layers=q).gradients for q in (0, 1))
    differing = {tiny.layer_of()[name] for name in exact if not np.array_equal(exact[name], noisy[name])}
    assert differing == {1}


def test_quantization_leaves_the_forward_untouched(tiny):
    parameters, batch = tiny.parameters(), tiny.batch(8)
    exact, noisy = (tiny.step(parameters, batch, depth=LAYERS, quantized_layers=q) for q in (0, LAYERS))
    assert exact.loss == noisy.loss


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("quantized", [1, LAYERS])
def test_each_stashed_tensor_is_quantized_once_right_after_its_last_forward_use(tiny, quantized, bits):
    base, graph = tiny.member(LAYERS), tiny.member(LAYERS, quantized, bits=bits)
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    old = {node.name for node in base.nodes}
    wanted = [node for node in stash_of_layers(base, range(quantized)) if worth_quantizing(node)]
    assert wanted
    for node in wanted:
        (kept,) = [each for each in graph.nodes if each.name == node.name]
        readers = [user.name for user in node.users if user.meta.get("phase") == "forward"]
        last_use = max(position[name] for name in [node.name, *readers])
        added = [user for user in kept.users if user.name not in old]
        assert len(added) == 1, f"{node.name} is quantized {len(added)} times"
        quantizing = chain(added[0])
        assert sum(each.target in QUANTIZING for each in quantizing) == 1
        assert min(position[each.name] for each in quantizing) > last_use, "quantized before its last use"
        between = [each.name for each in graph.nodes[last_use + 1 : max(position[each.name] for each in quantizing)]]
        assert not old & set(between), "something runs between the last use and the quantization"
        assert all(user.meta["phase"] == "forward" for user in kept.users), "the backward still reads the original"


def chain(node):
    """`node` and what is computed from it without leaving the forward."""
    found = [node]
    for each in found:
        found += [user for user in each.users if user.meta.get("phase") == "forward" and user not in found]
    return found


def test_dequantization_waits_for_the_backward(tiny):
    graph = tiny.member(LAYERS, LAYERS)
    forward = [i for i, node in enumerate(graph.nodes) if node.name in {n.name for n in forward_nodes(tiny)}]
    restored = [i for i, node in enumerate(graph.nodes) if node.target == quadloom.dequantize.default]
    assert restored
    assert min(restored) > max(forward)


def forward_nodes(tiny):
    return [node for node in tiny.member(LAYERS).nodes if node.meta["phase"] == "forward"]


def test_integer_boolean_and_small_tensors_are_kept_and_nothing_above_is_quantized(tiny):
    base, graph = tiny.member(LAYERS), tiny.member(LAYERS, 2)
    still_saved = {saved.node.name for saved in saved_tensors(graph)}
    for layer in range(LAYERS + 1):
        for node in stash_of_layers(base, [layer]):
            assert (node.name in still_saved) == (layer >= 2 or not worth_quantizing(node)), node.name


def is_gelu_derivative(node):
    """Whether it adds a value of the normal distribution to one of its density times the input."""
    return {getattr(each.target, "_opname", None) for each in node.all_input_nodes} == {"unit_interval", "mul"}


def is_residual_sum(node):
    """Whether it adds two tensors of the forward, neither of which is a weight."""
    if node.target != torch.ops.aten.add.Tensor or is_gelu_derivative(node):
        return False
    return [each.op != "placeholder" and shape_of(each) == shape_of(node) for each in node.all_input_nodes] == [
        True
    ] * 2


@pytest.mark.parametrize("bits", [8, 4])
def test_the_stash_shrinks_by_the_bits_saved_less_the_scales(tiny, bits):
    before, after = tiny.member(LAYERS), tiny.member(LAYERS, LAYERS, bits=bits)
    nodes = [node for node in stash_of_layers(before, range(LAYERS)) if worth_quantizing(node)]
    shapes = [shape_of(node) for node in nodes]
    elements = [math.prod(shape) for shape in shapes]
    assert quantized_elements(after) == sum(elements) > 0
    wanted = [8 if is_residual_sum(node) else 16 for node in nodes]
    groups = [
        count // (size if shape[-1] % size == 0 or size % shape[-1] == 0 else shape[-1])
        for count, shape, size in zip(elements, shapes, wanted, strict=True)
    ]

    def side_bytes(node):
        """Of a scale, and a zero point where no lower bound of the values is known; INT8 of bounded ones has none."""
        if is_gelu_derivative(node):
            return 0 if bits == 8 else 4
        return 4 if node.target == torch.ops.aten._softmax.default else 5

    sides = sum(count * side_bytes(node) for node, count in zip(nodes, groups, strict=True))
    assert sides < sum(5 * count for count in groups)
    assert stash_bytes(after) == stash_bytes(before) - 4 * sum(elements) + sum(elements) * bits // 8 + sides


def test_a_large_column_spoils_fewer_neighbours_in_a_residual_sum_than_elsewhere(bert):
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    rows[:, 5] = 500.0
    graph = bert.member(LAYERS)
    residual = next(node for node in stash_of_layers(graph, range(LAYERS)) if is_residual_sum(node))
    other = next(
        node
        for node in stash_of_layers(graph, range(LAYERS))
        if worth_quantizing(node) and shape_of(node)[-1] == 32 and not is_residual_sum(node)
    )

    def spoiled(node):
        value = rows.repeat(val(node).numel() // rows.numel(), 1).reshape(shape_of(node))
        error = (round_trip(node, value, StashFormat(group_size=16)) - value).abs()
        return int((error > 0.02).any(dim=tuple(range(error.dim() - 1))).sum())

    assert spoiled(residual) <= 8 < spoiled(other)


def test_a_tensor_that_two_layers_read_belongs_to_the_upper_one():
    """Quantized with the lower layer, its noise would enter the gradient of the upper one."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta = {"val": torch.zeros(4), "twin": torch.zeros(5), "role": "batch", "key": "x"}
    saved = graph.call_function(torch.ops.aten.exp.default, (x,))
    upper, lower = (graph.call_function(torch.ops.aten.neg.default, (saved,)) for _ in range(2))
    for node, phase, layer in ((saved, "forward", 0), (upper, "backward", 1), (lower, "backward", 0)):
        node.meta = {"val": torch.zeros(4), "twin": torch.zeros(5), "phase": phase, "layer": layer}
    graph.output((upper, lower))
    joint = JointGraph(graph, ("upper", "lower"), parameters=(), frozen={}, layers=2, depth=2, batch_size=4)
    assert [(each.node, each.layer) for each in saved_tensors(joint)] == [(saved, 1)]


def test_zero_quantized_layers_quantize_nothing(bert):
    assert quantized_elements(bert.member(LAYERS)) == 0
