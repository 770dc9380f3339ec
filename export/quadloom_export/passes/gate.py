"""Save two factors of a gated feed-forward instead of three tensors that the backward would compute them from.

With ``y = silu(g) * u`` the gradients are ``dy * silu(g)`` and ``dy * u * silu'(g)``. PyTorch keeps g, u and silu(g)
and makes eight tensors of that width in the backward; the factors silu(g) and ``u * silu'(g)`` are two tensors and two
products. An ungated SiLU saves its derivative alone.
"""

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead

aten = torch.ops.aten
quadloom = torch.ops.quadloom


def save_gate_slope(joint: JointGraph) -> JointGraph:
    """An equal graph in which every SiLU with a backward computes its derivative in the forward."""
    result = joint.copy()
    for derivative in [n for n in result.nodes if n.target == quadloom.silu_derivative.default]:
        _save_slope(result.graph, derivative)
    remove_dead(result.graph)
    return result


def _save_slope(graph: fx.Graph, derivative: fx.Node) -> None:
    """With s = sigmoid(g): silu(g) = g s and silu'(g) = s + g s (1 - s)."""
    activated = _activated(derivative.args[0])
    sigmoid = activated.args[1]
    gated = _gated(derivative, activated)
    after = activated if gated is None else gated[0]
    with graph.inserting_before(after.next if gated is None else after):
        rest = emit(graph, aten.sub.Tensor, (1.0, sigmoid), like=activated)
        bent = emit(graph, aten.mul.Tensor, (activated, rest), like=activated)
        slope = emit(graph, aten.add.Tensor, (sigmoid, bent), like=activated)
        if gated is not None:
            slope = emit(graph, aten.mul.Tensor, (gated[1], slope), like=activated)
    if gated is None:
        derivative.replace_all_uses_with(slope)
        return
    (product,) = derivative.users
    inner = next(each for each in product.args if each is not derivative)
    assert isinstance(inner, fx.Node)
    gradient = next(each for each in inner.args if each is not gated[1])
    with graph.inserting_before(product):
        lean = emit(graph, aten.mul.Tensor, (gradient, slope), like=product)
    product.replace_all_uses_with(lean)


def _activated(gate: object) -> fx.Node:
    """The forward's ``g * sigmoid(g)``."""
    assert isinstance(gate, fx.Node)
    sigmoid = next(user for user in gate.users if user.target == aten.sigmoid.default)
    return next(user for user in sigmoid.users if user.target == aten.mul.Tensor and user.args == (gate, sigmoid))


def _gated(derivative: fx.Node, activated: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """``silu(g) * u`` of the forward and its u, if the backward is ``(dy * u) * silu'(g)``."""
    if len(derivative.users) != 1:
        return None
    (product,) = derivative.users
    inner = next((each for each in product.args if each is not derivative), None)
    if not isinstance(inner, fx.Node) or inner.target != aten.mul.Tensor or len(inner.users) != 1:
        return None
    for user in activated.users:
        if user.target == aten.mul.Tensor and user.meta["phase"] == "forward":
            other = next((each for each in user.args if each is not activated), None)
            if isinstance(other, fx.Node) and other in inner.args:
                return user, other
    return None
