"""Which axes of its operands an operator keeps apart: row i of the result depends on row i of the operand alone."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from quadloom_export.graph import shape_of

aten = torch.ops.aten
quadloom = torch.ops.quadloom

POINTWISE = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.where.self,
    aten.exp.default,
    aten.erf.default,
    aten.tanh.default,
    aten.sqrt.default,
    aten.sigmoid.default,
    aten.relu.default,
    aten.gelu.default,
    aten.le.Scalar,
    aten._to_copy.default,
    quadloom.gelu_derivative.default,
    quadloom.unit_interval.default,
}
REDUCTIONS = {aten.sum.dim_IntList, aten.mean.dim}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default}


@dataclass(frozen=True)
class Axis:
    """One axis of one operand, by the operand's position among the arguments."""

    operand: int
    axis: int


def result_shapes(node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the result at two batch sizes; of a layer norm, which has three results, the first one's."""
    return tuple(_shape(node.meta[key]) for key in ("val", "twin"))  # type: ignore[return-value]


def operand_axes(node: fx.Node, axis: int) -> list[Axis] | None:
    """The operands' axes that `axis` of the result runs along; operands without one are read whole.

    None: the operator mixes the entries along this axis, or is not known here.
    """
    target = node.target
    if target in POINTWISE:
        return _aligned(node, axis)
    if target == aten.permute.default:
        return [Axis(0, list(node.args[1])[axis])]  # type: ignore[arg-type]
    if target in PRODUCTS:
        return _product_axes(node, axis)
    if target in REDUCTIONS:
        return _kept_axis(node, axis)
    if target == aten._softmax.default:
        rank = len(shape_of(node))
        return None if axis == node.args[1] % rank else [Axis(0, axis)]  # type: ignore[operator]
    if target == aten.native_layer_norm.default:
        normalized = len(node.args[1])  # type: ignore[arg-type]
        return [Axis(0, axis)] if axis < _rank(node.args[0]) - normalized else None
    if target == operator.getitem:
        return [Axis(0, axis)]
    if target == aten.gather.default:
        rank = len(shape_of(node))
        if axis == node.args[1] % rank or shape_of(node)[axis] != shape_of(node.args[0])[axis]:  # type: ignore[operator,arg-type]
            return None
        return [Axis(0, axis), Axis(2, axis)]
    return None


def summed_axes(node: fx.Node) -> list[tuple[Axis, ...]]:
    """The groups of operand axes that the operator sums over together: where one factor is zero, none is read."""
    if node.target == aten.mm.default:
        return [(Axis(0, 1), Axis(1, 0))]
    if node.target == aten.addmm.default:
        return [(Axis(1, 1), Axis(2, 0))]
    if node.target == aten.bmm.default:
        return [(Axis(0, 2), Axis(1, 1))]
    if node.target == aten.sum.dim_IntList:
        return [(Axis(0, each),) for each in _reduced(node)]
    return []


def _shape(value: Any) -> tuple[int, ...]:
    return tuple((value[0] if isinstance(value, tuple) else value).shape) if not isinstance(value, list) else ()


def _rank(node: Any) -> int:
    return len(shape_of(node))


def _aligned(node: fx.Node, axis: int) -> list[Axis]:
    size, from_right = shape_of(node)[axis], len(shape_of(node)) - axis
    found = []
    for position, operand in enumerate(node.args):
        if isinstance(operand, fx.Node):
            own = _rank(operand) - from_right
            if own >= 0 and shape_of(operand)[own] == size:
                found.append(Axis(position, own))
    return found


def _product_axes(node: fx.Node, axis: int) -> list[Axis]:
    if node.target == aten.mm.default:
        return [Axis(axis, axis)]
    if node.target == aten.addmm.default:
        bias = [each for each in _aligned(node, axis) if each.operand == 0]
        return [*bias, Axis(1 + axis, axis)]
    return [Axis(0, 0), Axis(1, 0)] if axis == 0 else [Axis(axis - 1, axis)]


def _reduced(node: fx.Node) -> list[int]:
    rank = _rank(node.args[0])
    axes = list(node.args[1]) if len(node.args) > 1 and node.args[1] else range(rank)  # type: ignore[arg-type]
    return sorted(each % rank for each in axes)


def _kept_axis(node: fx.Node, axis: int) -> list[Axis] | None:
    reduced = _reduced(node)
    if len(node.args) > 2 and node.args[2]:
        return None if axis in reduced else [Axis(0, axis)]
    kept = [each for each in range(_rank(node.args[0])) if each not in reduced]
    return [Axis(0, kept[axis])]
