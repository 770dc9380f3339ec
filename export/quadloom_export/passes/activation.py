"""Save a GELU's derivative instead of its input.

Both have the same size, and the derivative shares the error function with the forward, so the backward is one product
instead of a dozen full-size buffers. It is also bounded (-0.13 .. 1.13), which makes it kind to quantization, where the
input of a pretrained feed-forward has outliers.
"""

import math

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead

aten = torch.ops.aten
quadloom = torch.ops.quadloom


def save_gelu_derivative(joint: JointGraph) -> JointGraph:
    """An equal graph in which every GELU with a backward computes its derivative in the forward."""
    result = joint.copy()
    graph = result.graph
    for derivative in [n for n in graph.nodes if n.target == quadloom.gelu_derivative.default]:
        x = derivative.args[0]
        forward = [user for user in x.users if user.target == aten.gelu.default and user.meta["phase"] == "forward"]
        if len(forward) == 1:
            _share_error_function(graph, forward[0], derivative)
    remove_dead(graph)
    return result


def _share_error_function(graph: fx.Graph, gelu: fx.Node, derivative: fx.Node) -> None:
    """With y = x / sqrt(2), Phi = (1 + erf y) / 2: gelu = x Phi, gelu' = Phi + x exp(-y^2) / sqrt(2 pi)."""
    x = gelu.args[0]
    with graph.inserting_before(gelu):
        y = emit(graph, aten.mul.Tensor, (x, math.sqrt(0.5)), like=gelu)
        error = emit(graph, aten.erf.default, (y,), like=gelu)
        cdf = emit(graph, quadloom.unit_interval.default, (error,), like=gelu)
        square = emit(graph, aten.mul.Tensor, (y, y), like=gelu)
        # The density's factor 1 / sqrt(2 pi) goes into the exponent: one pass over memory less.
        exponent = emit(graph, aten.sub.Tensor, (-0.5 * math.log(2 * math.pi), square), like=gelu)
        density = emit(graph, aten.exp.default, (exponent,), like=gelu)
        slope = emit(graph, aten.mul.Tensor, (x, density), like=gelu)
        saved = emit(graph, aten.add.Tensor, (cdf, slope), like=gelu)
        value = emit(graph, aten.mul.Tensor, (x, cdf), like=gelu)
    gelu.replace_all_uses_with(value)
    derivative.replace_all_uses_with(saved)
