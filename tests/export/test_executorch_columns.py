"""Groups turned into columns: the same integers from the same scales."""

import pytest
import torch

from quadloom_export.lowering.executorch_columns import with_groups_as_columns
from quadloom_export.passes.quantize import StashFormat, StashFormats
from quadloom_export.pipeline import at_depth, at_quantization

LAYERS = 3
aten = torch.ops.aten
quadloom = torch.ops.quadloom


@pytest.fixture
def quantized(tiny):
    """Both with and without a known lower bound, of which one needs no search."""
    graph = at_depth(tiny.training, LAYERS, recompute=0.03)
    return at_quantization(graph, LAYERS, StashFormats(StashFormat(8, 16)))


def test_no_bit_of_the_results_changes(tiny, quantized):
    turned = with_groups_as_columns(quantized)
    found, expected = (graph.run(tiny.parameters(), tiny.batch(5)) for graph in (turned, quantized))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_each_quantized_tensor_is_turned_once_and_no_row_is_searched(quantized):
    turned = with_groups_as_columns(quantized)
    targets = [[node.target for node in graph.nodes] for graph in (quantized, turned)]
    assert not {quadloom.row_scale.default, quadloom.row_minimum.default} & set(targets[1])
    searched = targets[0].count(quadloom.row_scale.default)
    assert targets[1].count(aten.amax.default) - targets[0].count(aten.amax.default) == searched > 0
    assert targets[1].count(aten.permute.default) - targets[0].count(aten.permute.default) == searched
