"""Compute only the rows that matter: a classifier reads one token of the last layer's output.

The head takes one position of the sequence. Of the last layer's queries, attention output and feed-forward only that
row is needed in the forward, and in the backward their gradients are zero in every other row. Both follow from the
graph alone:

- a tensor of which every reader takes the same rows is needed in those rows only;
- a gradient that begins in some rows stays in them when it is multiplied, added to its like, or sent through a matrix;
  what such a gradient is multiplied with is needed there only.

The result is exact: what is left out is multiplied by zero or read by nobody. PyTorch eager computes all of it.
"""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from quadloom_export.graph import JointGraph, batch_free_shape, emit, remove_dead
from quadloom_export.passes.axes import operand_axes, result_shapes, summed_axes
from quadloom_export.passes.simplify import view_of

aten = torch.ops.aten

LINEAR_IN: dict[Any, tuple[int, ...]] = {
    aten.mul.Tensor: (0, 1),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.div.Tensor: (0,),
    aten.neg.default: (0,),
    aten.permute.default: (0,),
    aten.sum.dim_IntList: (0,),
    aten.mean.dim: (0,),
}
"""Operands whose zeros are zeros of the result."""
SUMS = {aten.add.Tensor, aten.sub.Tensor}
SELECTIONS = {aten.select.int, aten.slice.Tensor}


@dataclass(frozen=True)
class Rows:
    """Of every `period` runs of `inner` neighbouring elements the one at `position`; the same under every reshape.

    Attributes:
        mask: frozen boolean input with one entry per position, true at `position`; spreads rows over zeros.
    """

    inner: int
    period: int
    position: int
    mask: fx.Node | None = field(default=None, compare=False)

    def axis_of(self, node: fx.Node) -> int | None:
        """The axis of a node's result along which the rows are counted; None if its shape cuts across them."""
        found = [self._axis_in(shape) for shape in result_shapes(node)]
        return found[0] if found[0] == found[1] else None

    def along(self, node: fx.Node, axis: int) -> "Rows | None":
        """The same rows counted along an axis of another node; None if that axis does not hold them all."""
        inner = {prod(shape[axis + 1 :]) for shape in result_shapes(node)}
        if len(inner) > 1 or any(shape[axis] % self.period for shape in result_shapes(node)):
            return None
        return Rows(inner.pop(), self.period, self.position, self.mask)

    def _axis_in(self, shape: tuple[int, ...]) -> int | None:
        for axis, size in enumerate(shape):
            if prod(shape[axis + 1 :]) == self.inner and size % self.period == 0:
                return axis
        return None


def compute_needed_rows(joint: JointGraph) -> JointGraph:
    """An equal graph without the rows that nobody needs. Runs on ATen products, before they are fused."""
    result = joint.copy()
    nodes = result.nodes
    gradients: dict[fx.Node, Rows] = {}
    for node in nodes:
        rows = _begins(node, result.frozen) or _stays(node, gradients)
        if rows is not None and rows.axis_of(node) is not None:
            gradients[node] = rows
    needed = dict(gradients)
    for node in reversed(nodes):
        if node not in needed and (rows := _all_readers_take(node, needed, gradients)) is not None:
            needed[node] = rows
    # One of an operator's several results cannot be computed by rows alone.
    needed = {node: rows for node, rows in needed.items() if node.target != operator.getitem or node.args[0] in needed}
    _Rewrite(result.graph, needed, gradients).run(nodes)
    remove_dead(result.graph)
    return result


def _begins(node: fx.Node, frozen: Mapping[str, Tensor]) -> Rows | None:
    """Rows outside of which ``where(mask, x, 0)`` is zero: how the recording writes the gradient of a selection."""
    if node.target != aten.where.self or not _is_zero(node.args[2], frozen):
        return None
    mask, shape = node.args[0], result_shapes(node)[0]
    if not isinstance(mask, fx.Node) or mask.meta.get("role") != "frozen":
        return None
    value = frozen[mask.meta["key"]]
    if value.numel() < 2 or int(value.sum()) != 1 or value.numel() != max(value.shape):
        return None
    axis = len(shape) - value.dim() + value.shape.index(value.numel())
    return Rows(prod(shape[axis + 1 :]), value.numel(), int(value.flatten().nonzero()), mask).along(node, axis)


def _is_zero(value: Any, frozen: Mapping[str, Tensor]) -> bool:
    if not isinstance(value, fx.Node):
        return bool(value == 0)
    if value.target == aten.full.default:
        return bool(value.args[1] == 0)
    return value.meta.get("role") == "frozen" and not frozen[value.meta["key"]].any()


def _stays(node: fx.Node, gradients: Mapping[fx.Node, Rows]) -> Rows | None:
    """The rows outside of which `node` is zero because an operand is, None if it is not."""
    if node.target == aten.reshape.default:
        return gradients.get(node.args[0])  # type: ignore[arg-type]
    if node.target in SUMS:
        sides = [_rows_through(node, position, gradients) for position in (0, 1)]
        return sides[0] if sides[0] == sides[1] else None
    for position in LINEAR_IN.get(node.target, ()):
        rows = _rows_through(node, position, gradients)
        if rows is not None:
            return rows
    return None


def _rows_through(node: fx.Node, position: int, gradients: Mapping[fx.Node, Rows]) -> Rows | None:
    """The rows of `node` that correspond to those of one operand."""
    operand = node.args[position]
    rows = gradients.get(operand) if isinstance(operand, fx.Node) else None
    own = rows.axis_of(operand) if rows is not None else None  # type: ignore[arg-type]
    if rows is None or own is None:
        return None
    for axis in range(len(result_shapes(node)[0])):
        if any(each.operand == position and each.axis == own for each in operand_axes(node, axis) or ()):
            return rows.along(node, axis)
    return None


def _all_readers_take(node: fx.Node, needed: Mapping[fx.Node, Rows], gradients: Mapping[fx.Node, Rows]) -> Rows | None:
    """The rows of `node` that every reader takes, None if one takes more or `node` cannot be computed by rows."""
    wanted = {rows for user in node.users for rows in _taken_by(user, node, needed, gradients)}
    rows = wanted.pop() if len(wanted) == 1 else None
    axis = rows.axis_of(node) if rows is not None else None
    if axis is None or (node.target != aten.reshape.default and operand_axes(node, axis) is None):
        return None
    return rows


def _taken_by(
    user: fx.Node, node: fx.Node, needed: Mapping[fx.Node, Rows], gradients: Mapping[fx.Node, Rows]
) -> Iterator[Rows | None]:
    positions = [position for position, operand in enumerate(user.args) if operand is node]
    if not positions or user.op != "call_function":
        yield None
    for position in positions:
        yield _taken_at(user, position, needed, gradients)


def _taken_at(
    user: fx.Node, position: int, needed: Mapping[fx.Node, Rows], gradients: Mapping[fx.Node, Rows]
) -> Rows | None:
    """The rows that `user` reads of its operand at `position`, None for all."""
    operand, rows = user.args[position], needed.get(user)
    if not isinstance(operand, fx.Node):
        return None
    if user.target in SELECTIONS:
        return _selected(user, operand)
    if rows is not None:
        return rows if user.target == aten.reshape.default else _mapped(user, position, rows)
    for group in summed_axes(user):
        for each in group:
            factor = user.args[each.operand]
            found = gradients.get(factor)  # type: ignore[arg-type]
            if found is not None and found.axis_of(factor) == each.axis:  # type: ignore[arg-type]
                own = [other.axis for other in group if other.operand == position]
                return found.along(operand, own[0]) if own else None
    return None


def _mapped(user: fx.Node, position: int, rows: Rows) -> Rows | None:
    operand, axis = user.args[position], rows.axis_of(user)
    assert isinstance(operand, fx.Node)
    assert axis is not None
    own = [each.axis for each in operand_axes(user, axis) or () if each.operand == position]
    return rows.along(operand, own[0]) if own else None


def _selected(user: fx.Node, operand: fx.Node) -> Rows | None:
    """The rows that ``x[:, i]`` or ``x[:, i : i + 1]`` reads."""
    axis, start = (*user.args[1:], 0, 0)[:2]
    shape = result_shapes(operand)[0]
    assert isinstance(axis, int)
    assert isinstance(start, int)
    size = shape[axis % len(shape)]
    if size < 2 or (user.target == aten.slice.Tensor and result_shapes(user)[0][axis % len(shape)] != 1):
        return None
    return Rows(0, size, start % size).along(operand, axis % len(shape))


class _Rewrite:
    """Builds the narrow form of every node that is needed in some rows only, and connects what reads it."""

    def __init__(self, graph: fx.Graph, needed: Mapping[fx.Node, Rows], gradients: Mapping[fx.Node, Rows]) -> None:
        self._graph, self._needed, self._gradients = graph, needed, gradients
        self._narrow: dict[tuple[fx.Node, Rows], fx.Node] = {}
        self._spread: dict[fx.Node, fx.Node] = {}

    def run(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            with self._graph.inserting_before(node):
                if node in self._needed:
                    self._narrow[node, self._needed[node]] = self._in_rows(node, self._needed[node])
                else:
                    self._connect(node)

    def _in_rows(self, node: fx.Node, rows: Rows) -> fx.Node:
        """`node` computed in `rows` only."""
        if node.target == aten.reshape.default:
            operand = node.args[0]
            assert isinstance(operand, fx.Node)
            return emit(
                self._graph, node.target, (self._read(operand, rows, node), _narrow_shape(node, rows)), like=node
            )
        arguments = tuple(
            self._read(each, _mapped(node, position, rows), node) if isinstance(each, fx.Node) else each
            for position, each in enumerate(node.args)
        )
        if node.target == aten.where.self and rows.mask is node.args[0]:
            return emit(self._graph, aten.reshape.default, (arguments[1], _narrow_shape(node, rows)), like=node)
        return emit(self._graph, node.target, arguments, like=node, kwargs=dict(node.kwargs))

    def _connect(self, node: fx.Node) -> None:
        """Let a node that is needed whole read what it takes of its operands."""
        taken = [_taken_at(node, position, self._needed, self._gradients) for position in range(len(node.args))]
        if node.target in SELECTIONS and node.args[0] in self._needed:
            assert isinstance(node.args[0], fx.Node)
            rows = self._read(node.args[0], taken[0], node)
            node.replace_all_uses_with(view_of(self._graph, rows, like=node))
        elif node.target not in SELECTIONS:
            for position, operand in enumerate(list(node.args)):
                if isinstance(operand, fx.Node) and taken[position] is not None:
                    node.update_arg(position, self._read(operand, taken[position], node))
            for operand in node.all_input_nodes:
                if operand in self._needed:
                    node.replace_input_with(operand, self._whole(operand, node))

    def _read(self, operand: fx.Node, rows: Rows | None, reader: fx.Node) -> fx.Node:
        if rows is None:
            return self._whole(operand, reader) if operand in self._needed else operand
        if (operand, rows) not in self._narrow:
            whole = self._whole(operand, reader) if operand in self._needed else operand
            runs = emit(self._graph, aten.reshape.default, (whole, [-1, rows.period, rows.inner]), like=reader)
            run = emit(self._graph, aten.slice.Tensor, (runs, 1, rows.position, rows.position + 1), like=reader)
            shape = _narrow_shape(operand, rows)
            self._narrow[operand, rows] = emit(self._graph, aten.reshape.default, (run, shape), like=reader)
        return self._narrow[operand, rows]

    def _whole(self, node: fx.Node, reader: fx.Node) -> fx.Node:
        """A gradient that is zero outside its rows, spread over all of them."""
        rows = self._needed[node]
        assert rows.mask is not None, f"{node} is needed whole, and by rows only"
        if node not in self._spread:
            narrow = self._narrow[node, rows]
            runs = emit(self._graph, aten.reshape.default, (narrow, [-1, 1, rows.inner]), like=reader)
            # Not `where`, for which ONNX Runtime makes another tensor of full size.
            around = [0, 0, rows.position, rows.period - rows.position - 1]
            spread = emit(self._graph, aten.constant_pad_nd.default, (runs, around), like=reader)
            self._spread[node] = emit(self._graph, aten.reshape.default, (spread, batch_free_shape(node)), like=reader)
        return self._spread[node]


def _narrow_shape(node: fx.Node, rows: Rows) -> list[int]:
    axis = rows.axis_of(node)
    assert axis is not None
    shape = batch_free_shape(node)
    return [size if size == -1 or index != axis else size // rows.period for index, size in enumerate(shape)]
