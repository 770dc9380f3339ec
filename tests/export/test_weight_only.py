"""Frozen linear weights as INT8: what is rounded, by how much, and how long a float copy lives."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from quadloom_export.graph import shape_of, size_bytes, val
from quadloom_export.liveness import plan_memory
from quadloom_export.lowering.onnx import weight_tensors
from quadloom_export.model import Int8Weight
from quadloom_export.passes.quantize import StashFormat, StashFormats
from quadloom_export.passes.rematerialize import rematerialize
from quadloom_export.passes.row_chunks import split_rows
from quadloom_export.passes.stash import saved_tensors
from quadloom_export.passes.weight_only import is_weight_copy, store_int8_weights
from quadloom_export.pipeline import at_depth, at_quantization
from quadloom_export.weight_only import linear_weights, to_float32, to_int8, with_int8_weights
from quadloom_runtime.errors import QuadloomError

LAYERS = 3
MATRICES = arrays_of.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


@pytest.fixture
def rounded(make_tiny):
    return make_tiny("bert", int8=True)


def copies(graph):
    return [node for node in graph.nodes if is_weight_copy(node)]


@given(MATRICES)
def test_no_element_moves_by_more_than_half_a_step_of_its_row(values):
    stored = to_int8(torch.from_numpy(values))
    assert stored.values.dtype == torch.int8
    assert stored.values.abs().max() <= 127
    difference = (to_float32(stored).double() - torch.from_numpy(values).double()).abs()
    assert (difference <= stored.scale[:, None].double() / 2 * (1 + 1e-5)).all()


@given(MATRICES)
def test_the_largest_element_of_a_row_keeps_its_value_and_a_row_of_zeros_stays(values):
    stored = to_int8(torch.from_numpy(values))
    for row, integers, found in zip(values, stored.values, to_float32(stored), strict=True):
        largest = np.abs(row).argmax()
        assert found[largest].item() == pytest.approx(row[largest], rel=1e-6, abs=1e-30)
        assert row.any() or not integers.any()


def test_a_row_of_small_weights_does_not_suffer_from_a_row_of_large_ones():
    found = to_float32(to_int8(torch.tensor([[100.0, -50.0], [0.001, -0.0005]])))
    torch.testing.assert_close(found, torch.tensor([[100.0, -50.0], [0.001, -0.0005]]), rtol=0.01, atol=0)


def test_the_linear_weights_of_the_layers_are_rounded_and_nothing_else(tiny):
    names = linear_weights(tiny.model)
    found = with_int8_weights(tiny.model)
    changed = {name for name, value in tiny.model.frozen.items() if found.frozen[name] is not value}
    assert changed == set(names)
    assert not found.trainable.keys() & changed
    for name in names:
        assert ".layer." in name, "heads and poolers stay"
        assert name.endswith(".weight")
        assert "norm" not in name.lower()
        assert "lora" not in name
    # Attention has four of them, the feed-forward two, in every layer.
    assert len(names) == 6 * LAYERS
    assert tiny.model.int8_weights == {}


def test_a_model_without_linear_weights_in_its_layers_is_refused(bert):
    with pytest.raises(QuadloomError, match="no frozen linear weights") as caught:
        with_int8_weights(replace(bert.model, frozen={}))
    assert "--weights float32" in caught.value.remedy


@pytest.mark.parametrize("depth", [0, 1, LAYERS])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_the_graph_computes_what_it_computed_with_the_rounded_weights_in_float(rounded, depth, rows):
    weights = {key: to_float32(stored) for key, stored in rounded.model.int8_weights.items()}
    graph = at_depth(rounded.training, depth)
    frozen = {key: weights.get(key, value) for key, value in graph.frozen.items()}
    plain = graph.copy(frozen=frozen)
    for node in copies(plain):
        node.replace_all_uses_with(node.args[0])
    parameters, batch = rounded.parameters(), rounded.batch(rows)
    found, expected = graph.run(parameters, batch), plain.run(parameters, batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("depth", [0, 1, LAYERS])
def test_a_float_copy_is_made_right_before_the_product_that_reads_it_and_for_that_alone(rounded, depth):
    graph = at_quantization(at_depth(rounded.training, depth), depth, StashFormats(StashFormat(group_size=16)))
    following = dict(zip(graph.nodes, graph.nodes[1:], strict=False))
    for copy in copies(graph):
        (reader,) = copy.users
        assert following[copy] is reader
        assert reader.target == torch.ops.quadloom.gemm.default
        assert (copy.meta["phase"], copy.meta["layer"]) == (reader.meta["phase"], reader.meta["layer"])
    assert not {each.node for each in saved_tensors(graph)} & set(copies(graph))


def test_only_trained_layers_have_copies_for_the_backward(rounded):
    for depth in range(LAYERS + 1):
        graph = at_depth(rounded.training, depth)
        found = Counter(node.meta["layer"] for node in copies(graph) if node.meta["phase"] == "backward")
        # Below the lowest trained layer's query and value nothing asks for a gradient.
        assert set(found) <= set(range(LAYERS - depth, LAYERS))
        assert bool(found) == (depth > 0)


def test_of_a_weight_that_several_shares_of_rows_use_each_share_makes_a_copy(rounded):
    before = at_depth(rounded.training, LAYERS)
    after = split_rows(before, chunks=4)
    wide = rounded.reference.config.intermediate_size
    counts = [sum(wide in shape_of(node) and node.meta["layer"] == 0 for node in copies(g)) for g in (before, after)]
    assert counts == [4, 16], "two weights, forward and backward"


@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_recomputed_products_keep_no_float_weights(rounded, budget):
    lean = rematerialize(at_depth(rounded.training, LAYERS), budget=budget)
    assert len(copies(lean)) > len(copies(at_depth(rounded.training, LAYERS)))
    assert not {each.node for each in saved_tensors(lean)} & set(copies(lean))


@pytest.mark.parametrize("quantized", [0, LAYERS])
def test_the_peak_grows_by_one_float_copy_at_most(make_tiny, quantized):
    plans = [
        plan_memory(
            at_quantization(at_depth(tiny.training, LAYERS), quantized, StashFormats(StashFormat(group_size=16)))
        )
        for tiny in (make_tiny("bert"), make_tiny("bert", int8=True))
    ]
    largest = max(size_bytes(node) for node in copies(make_tiny("bert", int8=True).training))
    assert plans[0].peak_bytes <= plans[1].peak_bytes <= plans[0].peak_bytes + largest


def test_the_bytes_of_the_linear_weights_shrink_to_a_fourth_and_the_scales(make_tiny):
    plain, rounded = make_tiny("bert").training, make_tiny("bert", int8=True).training
    stored = make_tiny("bert", int8=True).model.int8_weights
    assert set(stored) <= set(rounded.inputs_of("frozen"))
    saved = sum(3 * each.values.numel() - 4 * each.scale.numel() for each in stored.values())
    assert plain.weight_bytes - rounded.weight_bytes == saved > 0
    tensors = weight_tensors(rounded)
    for key, each in stored.items():
        assert tensors[key].dtype == np.int8
        np.testing.assert_array_equal(tensors[f"{key}_scale"], each.scale.numpy())


def test_graphs_that_do_not_read_a_weight_do_not_get_it(bert):
    weight = Int8Weight(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2))
    graph = store_int8_weights(bert.training, {"elsewhere": weight})
    assert not copies(graph)
    assert "elsewhere_scale" not in graph.inputs_of("frozen")


def test_the_graph_that_was_given_is_left_alone(bert):
    names, before = [node.name for node in bert.training.graph.nodes], dict(bert.training.frozen)
    store_int8_weights(bert.training, with_int8_weights(bert.model).int8_weights)
    assert [node.name for node in bert.training.graph.nodes] == names
    assert bert.training.frozen == before
    assert all(val(node).dtype != torch.int8 for node in bert.training.inputs)
