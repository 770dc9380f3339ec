"""Save a GELU's derivative instead of its input.

Both have the same size, and the derivative shares the error function with the forward, so the backward is one product
instead of a dozen full-size buffers. It is also bounded (-0.13 .. 1.13), which makes it kind to quantization, where the
input of a pretrained feed-forward has outliers.
"""

import math

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead, val
from quadloom_export.passes.matmuls import GEMM, absorb_operand_factor
from quadloom_export.passes.simplify import apply_rules, view_of

aten = torch.ops.aten
quadloom = torch.ops.quadloom

SMALLEST_DERIVATIVE = -0.12905
LARGEST_DERIVATIVE = 1 - SMALLEST_DERIVATIVE
"""GELU's derivative ends where its slope, (2 - x^2) times the density, does: at -sqrt(2), where it is 0.0786 - sqrt(2)
0.1468, and at sqrt(2), where it is 1 minus that."""


def save_gelu_derivative(joint: JointGraph) -> JointGraph:
    """An equal graph in which every GELU with a backward computes its derivative in the forward."""
    result = joint.copy()
    graph = result.graph
    for derivative in [n for n in graph.nodes if n.target == quadloom.gelu_derivative.default]:
        x = derivative.args[0]
        forward = [user for user in x.users if user.target == aten.gelu.default and user.meta["phase"] == "forward"]
        if len(forward) == 1:
            _share_error_function(graph, forward[0], derivative)
    apply_rules(graph, [absorb_operand_factor])
    remove_dead(graph)
    return result


def plain_gelu(joint: JointGraph) -> JointGraph:
    """An equal graph in which a GELU that shares nothing is one operator again.

    After rematerialization the backward may make the derivative by itself: engines have a fast kernel for the rest.
    """
    result = joint.copy()
    graph = result.graph
    for error in [n for n in graph.nodes if n.target == aten.erf.default]:
        y, cdf = error.args[0], _only_reader(error, quadloom.unit_interval.default)
        share = None if cdf is None else _only_reader(cdf, aten.mul.Tensor)
        if share is None or share.args != (y, cdf) or set(y.users) != {error, share}:
            continue
        with graph.inserting_before(error):
            x = _scaled(graph, y, math.sqrt(2), readers={error, share})
        with graph.inserting_before(share):
            value = emit(graph, aten.gelu.default, (x,), like=share)
            share.replace_all_uses_with(emit(graph, aten.mul.Tensor, (value, math.sqrt(0.5)), like=share))
    apply_rules(graph, [absorb_operand_factor])
    remove_dead(graph)
    return result


def _only_reader(node: fx.Node, target: object) -> fx.Node | None:
    """What alone reads `node`, if it is of this kind."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target == target else None


def _share_error_function(graph: fx.Graph, gelu: fx.Node, derivative: fx.Node) -> None:
    """With y = x / sqrt(2), Phi = (1 + erf y) / 2: gelu = sqrt(2) y Phi, gelu' = Phi + y exp(-y^2) / sqrt(pi).

    Both factors go into the matrix products in front and behind, so that no pass over memory only scales.
    """
    x = gelu.args[0]
    assert isinstance(x, fx.Node)
    with graph.inserting_before(gelu):
        y = _scaled(graph, x, math.sqrt(0.5), readers={gelu, derivative})
        error = emit(graph, aten.erf.default, (y,), like=gelu)
        cdf = emit(graph, quadloom.unit_interval.default, (error,), like=gelu)
        square = emit(graph, aten.mul.Tensor, (y, y), like=gelu)
        # The density's factor 1 / sqrt(pi) goes into the exponent.
        exponent = emit(graph, aten.sub.Tensor, (-0.5 * math.log(math.pi), square), like=gelu)
        density = emit(graph, aten.exp.default, (exponent,), like=gelu)
        slope = emit(graph, aten.mul.Tensor, (y, density), like=gelu)
        saved = emit(graph, aten.add.Tensor, (cdf, slope), like=gelu)
        saved.meta["bounds"] = SMALLEST_DERIVATIVE, LARGEST_DERIVATIVE
        share = emit(graph, aten.mul.Tensor, (y, cdf), like=gelu)
        value = emit(graph, aten.mul.Tensor, (share, math.sqrt(2)), like=gelu)
    gelu.replace_all_uses_with(value)
    derivative.replace_all_uses_with(saved)


def _scaled(graph: fx.Graph, node: fx.Node, factor: float, *, readers: set[fx.Node]) -> fx.Node:
    """``factor * node``, by a product that makes nothing else if there is one."""
    if set(node.users) <= readers and node.target == aten.reshape.default:
        assert isinstance(node.args[0], fx.Node)
        return view_of(graph, _scaled(graph, node.args[0], factor, readers={node}), like=node)
    if set(node.users) <= readers and node.target == GEMM:
        a, b, start, flag_a, flag_b, alpha = node.args
        if isinstance(start, fx.Node):
            # A bias is a vector, cheap to scale; a whole matrix is another product's result.
            start = _scaled(graph, start, factor, readers={node} if val(start).dim() > 1 else set())
        assert isinstance(alpha, float)
        return emit(graph, GEMM, (a, b, start, flag_a, flag_b, _product(alpha, factor)), like=node)
    if node.target == aten.mul.Tensor and isinstance(node.args[1], int | float):
        x, whole = node.args[0], _product(node.args[1], factor)
        assert isinstance(x, fx.Node)
        return x if whole == 1.0 else emit(graph, aten.mul.Tensor, (x, whole), like=node)
    return emit(graph, aten.mul.Tensor, (node, factor), like=node)


def _product(a: float, b: float) -> float:
    """1 exactly where only rounding keeps a product from it."""
    return 1.0 if math.isclose(a * b, 1.0) else a * b
