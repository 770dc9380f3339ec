"""Layers with room below the peak run more of their rows at once: the same results, no more memory."""

import pytest
import torch
from tests.export.test_less_memory import results_differ_by
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.liveness import alive_bytes, plan_memory
from quadloom_export.passes.quantize import StashFormat, StashFormats
from quadloom_export.passes.row_chunk_choice import fewest_row_chunks
from quadloom_export.passes.row_chunks import split_rows
from quadloom_export.pipeline import at_depth, at_quantization

LAYERS = 3
FORMATS = StashFormats(StashFormat(8, 16))
aten = torch.ops.aten


def shares(joint: JointGraph) -> list[int]:
    """Of each layer, counted by its error functions."""
    return [
        sum(node.target == aten.erf.default and node.meta["layer"] == layer for node in joint.nodes)
        for layer in range(joint.layers)
    ]


@pytest.mark.parametrize("quantized", [0, LAYERS])
def test_layers_near_the_input_run_whole_at_the_peak_of_the_finest_shares(bert, quantized):
    graph = at_depth(bert.training, LAYERS)
    even, chosen = (at_quantization(graph, quantized, FORMATS, row_chunks=4, even=even) for even in (True, False))
    assert shares(even)[:2] == [4, 4]
    found = shares(chosen)
    assert list(chosen.row_chunks) == found
    assert found[0] < 4
    assert found[:-1] == sorted(found[:-1])
    assert plan_memory(chosen).peak_bytes <= plan_memory(even).peak_bytes
    if not quantized:
        assert results_differ_by(bert, chosen, even) < 2e-5


def test_one_share_leaves_nothing_to_choose(bert):
    graph = at_depth(bert.training, LAYERS)
    made: list[dict[int, int]] = []

    def split(chunks):
        made.append(dict(chunks))
        return split_rows(graph, chunks=chunks)

    assert shares(fewest_row_chunks(split, layers=LAYERS, at_most=1)) == shares(graph)
    assert made == [{0: 1, 1: 1, 2: 1}]


def scripted(peaks_of_layers: dict[int, int]) -> JointGraph:
    """A graph that takes so many floats in each layer, one layer after the other."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta = {"phase": "forward", "layer": "embeddings", "role": "batch", "key": "x"}
    x.meta |= {key: mode.from_tensor(torch.zeros(1)) for key, mode in SHAPE_MODES.items()}
    last = x
    for layer, floats in peaks_of_layers.items():
        wide = emit(graph, aten.expand.default, (x, [floats]), like=x)
        made = emit(graph, aten.exp.default, (wide,), like=x)
        last = emit(graph, aten.sum.default, (made,), like=x)
        for node in (wide, made, last):
            node.meta["layer"] = layer
    graph.output((last,))
    return JointGraph(graph, ("result",), parameters=(), frozen={}, layers=len(peaks_of_layers), depth=0, batch_size=1)


def test_where_layers_need_more_together_than_each_alone_the_top_ones_give_way():
    asked: list[dict[int, int]] = []

    def split(chunks):
        asked.append(dict(chunks))
        together = len(set(chunks.values())) > 1 and sum(count == 1 for count in chunks.values()) > 1
        return scripted({0: 100 if together else 10, 1: 10, 2: 50 if chunks[2] == 1 else 20})

    found = fewest_row_chunks(split, layers=3, at_most=2)
    assert asked == [{0: 2, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 2}, {0: 1, 1: 2, 2: 2}]
    assert max(alive_bytes(found)) == max(alive_bytes(scripted({0: 10, 1: 10, 2: 20})))
