"""One graph for every batch size: what is rewritten, and what is refused."""

import pytest
import torch
from torch import fx
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from quadloom_export.graph import evaluate
from quadloom_export.lowering.onnx import translate_graph
from quadloom_export.passes.batch_free import TRACED_BATCH_SIZES, make_batch_free
from quadloom_export.pipeline import at_depth, training_graph
from quadloom_runtime.errors import QuadloomError


def batch_free(function):
    """Record `function` of one tensor ``(batch, 4)`` twice and join the recordings."""
    recordings = []
    for rows in TRACED_BATCH_SIZES:
        trace = make_fx(lambda x: (function(x),), core_aten_decompositions(), tracing_mode="fake")
        graph = trace(torch.zeros(rows, 4)).graph
        for node in graph.nodes:
            node.meta |= {"phase": "forward", "layer": 0}
        recordings.append(graph)
    return make_batch_free(*recordings)


def run(graph: fx.Graph, x):
    values = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "call_function":
            values[node] = evaluate(node.target, node.args, node.kwargs, values.__getitem__)
    (result,) = graph.output_node().args[0]
    return values[result]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(x.shape[0] * 2, 2) + 1,
        lambda x: x.reshape(2, -1).sum(1),
        lambda x: torch.ones(x.shape[0], 3) * x[:, :1],
        lambda x: torch.full((2 * x.shape[0], 4), 0.5),
        lambda x: torch.arange(4.0).expand(x.shape[0], 4) - x,
        lambda x: torch.arange(4.0).repeat(x.shape[0], 1) * x,
        lambda x: x.unsqueeze(1).expand(x.shape[0], 3, 4).clone(),
        lambda x: x.repeat(1, 2),
        lambda x: x[: x.shape[0]] * 2,
        lambda x: torch.zeros_like(x) - x,
        lambda x: torch.full((x.shape[0],), 3, dtype=torch.int64),
        lambda x: torch.ones_like(x, dtype=torch.bool),
    ],
    ids=[
        "view",
        "merge",
        "ones",
        "full",
        "expand",
        "repeat",
        "spread",
        "repeat columns",
        "slice",
        "zeros_like",
        "integers",
        "flags",
    ],
)
def test_a_function_of_the_batch_holds_at_sizes_never_recorded(function):
    graph = batch_free(function)
    for rows in (1, 2, 4, 7):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(run(graph, x), function(x))


def test_a_number_that_depends_on_the_batch_is_refused():
    with pytest.raises(QuadloomError, match="depends on the batch size") as caught:
        batch_free(lambda x: x * x.shape[0])
    assert "report the model" in caught.value.remedy


def test_control_flow_that_depends_on_the_batch_is_refused():
    with pytest.raises(QuadloomError, match="computes differently for different batch sizes"):
        batch_free(lambda x: x + 1 if x.shape[0] == TRACED_BATCH_SIZES[0] else x.exp())


def test_as_many_rows_of_a_table_as_the_batch_has_are_refused():
    """The table would have to be cut at a place that the file cannot name."""
    with pytest.raises(QuadloomError, match="depends on the batch size"):
        batch_free(lambda x: torch.cat([x, x])[: x.shape[0]] + x)


def test_two_batch_dependent_dimensions_are_refused():
    with pytest.raises(QuadloomError, match="more than one batch-dependent dimension"):
        batch_free(lambda x: (x @ x.t()).view(x.shape[0], 1, x.shape[0]))


def test_the_family_batch_size_leaves_no_trace_in_the_file(bert):
    """Only places in the arena are for one size: the graph of a member for another one is the same."""
    other = training_graph(bert.model, batch_size=2, sequence_length=16)
    models = [translate_graph(at_depth(full, 2), bert.weights).model() for full in (bert.training, other)]
    assert models[0].SerializeToString() == models[1].SerializeToString()
