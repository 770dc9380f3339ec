"""Rules that make elementwise arithmetic touch less memory: numbers go to the small operand, slices join."""

from typing import Any

import torch
from torch import fx

from quadloom_export.graph import emit, shape_of, size_bytes

aten = torch.ops.aten
quadloom = torch.ops.quadloom

NUMBER_FORMS = {aten.mul.Scalar: aten.mul.Tensor, aten.div.Scalar: aten.div.Tensor, aten.add.Scalar: aten.add.Tensor}
FILLS = {aten.full.default: 1, aten.full_like.default: 1, quadloom.batch_full.default: 3}
"""Operators that make a constant, and where its value stands among their arguments."""


def plain_number(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """One spelling of arithmetic with a number."""
    if node.target not in NUMBER_FORMS or len(node.args) > 2 or node.kwargs:
        return None
    return emit(graph, NUMBER_FORMS[node.target], node.args, like=node)


def plain_power(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``x ** 1`` is x, and a square is a product."""
    if node.target != aten.pow.Tensor_Scalar:
        return None
    x, exponent = node.args
    assert isinstance(x, fx.Node)
    if exponent == 1:
        return x
    return emit(graph, aten.mul.Tensor, (x, x), like=node) if exponent == 2 else None


def number_before_spread(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``c * expand(x)`` is ``expand(c * x)``, and what reads the expand can then do without it."""
    spread = _scaled(node)
    if spread is None or spread.target != aten.expand.default:
        return None
    small = emit(graph, node.target, (spread.args[0], node.args[1]), like=node)
    return emit(graph, aten.expand.default, (small, spread.args[1]), like=node)


def number_to_small_operand(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``x * (c * y)`` with a small x is ``(c * x) * y``."""
    if node.target != aten.mul.Tensor:
        return None
    for small, large in (node.args, node.args[::-1]):
        if not isinstance(small, fx.Node) or not isinstance(large, fx.Node) or len(large.users) > 1:
            continue
        whole = _scaled(large)
        if whole is not None and large.target == aten.mul.Tensor and size_bytes(small) < size_bytes(large):
            scaled = emit(graph, aten.mul.Tensor, (small, large.args[1]), like=node)
            return emit(graph, aten.mul.Tensor, (scaled, whole), like=node)
    return None


def join_slice_gradients(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The gradients of two slices that make up a whole, each spread over zeros, sum up to their concatenation."""
    if node.target != aten.add.Tensor or node.kwargs:
        return None
    parts = sorted((found for each in node.args if (found := _over_zeros(each))), key=lambda part: part[1])
    if len(parts) < 2 or parts[0][0] != parts[1][0]:
        return None
    (axis, first, middle, lower), (_, start, last, upper) = parts
    if first != 0 or middle != start or last != shape_of(node)[axis]:
        return None
    return emit(graph, aten.cat.default, ([lower, upper], axis), like=node)


def _scaled(node: fx.Node) -> fx.Node | None:
    """x of ``x * c`` or ``x / c`` with a number c."""
    if node.target not in (aten.mul.Tensor, aten.div.Tensor) or node.kwargs:
        return None
    x, number = node.args
    return x if isinstance(x, fx.Node) and isinstance(number, int | float) else None


def _over_zeros(node: Any) -> tuple[int, int, int, fx.Node] | None:
    """Axis, start, end and content of a slice written over zeros."""
    if not isinstance(node, fx.Node) or node.target != aten.slice_scatter.default or len(node.args) > 5:
        return None
    base, content = node.args[:2]
    where: list[Any] = list(node.args[2:])
    axis, start, end = where + [0, None, None][len(where) :]
    assert isinstance(base, fx.Node)
    assert isinstance(content, fx.Node)
    if base.target not in FILLS or base.args[FILLS[base.target]] != 0:
        return None
    axis %= len(shape_of(node))
    size = shape_of(node)[axis]
    return axis, start or 0, size if end is None else min(end, size), content
