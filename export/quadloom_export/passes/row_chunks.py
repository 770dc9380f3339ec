"""Run the wide part of every layer, the feed-forward, on a share of the rows at a time, forward and backward.

Row i of a feed-forward depends on row i of its input alone, so the result is the same; but of the tensors that are
several times as wide as the layer's input only a share exists at once. What the backward needs of them is saved, or
recomputed, share by share. Weight gradients, which sum over all rows, are summed up over the shares.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from quadloom_export.graph import JointGraph, batch_free_shape, emit, remove_dead, val
from quadloom_export.passes.axes import POINTWISE
from quadloom_export.passes.weight_only import is_weight_copy

aten = torch.ops.aten
quadloom = torch.ops.quadloom

WIDE = 2
"""A tensor this many times as wide as its layer's input is worth splitting."""


def split_rows(joint: JointGraph, *, chunks: int | Mapping[int, int]) -> JointGraph:
    """An equal graph whose layers process the positions of a sequence in `chunks` shares where they are wide.

    Args:
        chunks: shares wanted, of all layers or of each; the sequence is split into as many equal ones as it can be, at
            most so many.
    """
    wanted = chunks if isinstance(chunks, Mapping) else dict.fromkeys(range(joint.layers), chunks)
    counts = [1] * joint.layers
    result = joint.copy()
    for layer in range(joint.layers):
        nodes = [node for node in result.nodes if node.meta["layer"] == layer]
        region = _region(nodes)
        if region is not None:
            counts[layer] = next(each for each in range(wanted[layer], 0, -1) if region.positions % each == 0)
            if counts[layer] > 1:
                _Splitting(result, region, counts[layer]).run()
    remove_dead(result.graph)
    return replace(result, row_chunks=tuple(counts))


@dataclass(frozen=True)
class _Region:
    """The nodes of one layer to run in shares, in order, per phase; `positions` is the length of a sequence."""

    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    positions: int


def _region(layer: list[fx.Node]) -> _Region | None:
    """What of a layer is wide, with all that lies between; None if there is nothing, or it mixes rows."""
    positions, width = _row_shape(layer)
    wide = {node for node in layer if _is_rows(node, positions) and val(node).shape[-1] >= WIDE * width}
    if width == 0 or not wide:
        return None
    found: dict[str, tuple[fx.Node, ...]] = {}
    for phase in ("forward", "backward"):
        nodes = [node for node in layer if node.meta["phase"] == phase]
        reading = {node for node in nodes if _leaves(node, wide, positions)}
        members = _between(nodes, (wide & set(nodes)) | reading)
        if not all(_keeps_rows_apart(node, positions) or _sums_rows(node, positions) for node in members):
            return None
        found[phase] = tuple(members)
    return _Region(found["forward"], found["backward"], positions)


def _row_shape(layer: list[fx.Node]) -> tuple[int, int]:
    """Positions of a sequence and width of what the layer reads from the one below; zeros if it has no such input."""
    own = set(layer)
    for node in layer:
        for read in node.all_input_nodes if node.meta["phase"] == "forward" else ():
            if read not in own and read.op == "call_function" and isinstance(read.meta["val"], torch.Tensor):
                shape = batch_free_shape(read)
                if len(shape) == 3 and shape[0] == -1 and shape[1] > 1:
                    return shape[1], shape[2]
    return 0, 0


def _is_rows(node: fx.Node, positions: int) -> bool:
    """Whether the tensor is ``(batch * positions, width)`` or ``(batch, positions, width)``."""
    if not isinstance(node.meta["val"], torch.Tensor):
        return False
    shape, twin = batch_free_shape(node), node.meta["twin"].shape
    if len(shape) == 2:
        return shape[0] == -1 and (twin[0] - val(node).shape[0]) == positions
    return len(shape) == 3 and shape[:2] == [-1, positions]


def _leaves(node: fx.Node, wide: set[fx.Node], positions: int) -> bool:
    """Whether a product makes something narrow of something wide."""
    return (
        node.target == quadloom.gemm.default
        and any(each in wide for each in node.all_input_nodes)
        and (_keeps_rows_apart(node, positions) or _sums_rows(node, positions))
    )


def _between(nodes: list[fx.Node], members: set[fx.Node]) -> list[fx.Node]:
    """The members and everything on a way from one to another, in order."""
    after: set[fx.Node] = set()
    for node in nodes:
        if any(read in members or read in after for read in node.all_input_nodes):
            after.add(node)
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        if any(user in members or user in before for user in node.users):
            before.add(node)
    return [node for node in nodes if node in members or (node in after and node in before)]


def _keeps_rows_apart(node: fx.Node, positions: int) -> bool:
    if not _is_rows(node, positions):
        return False
    if node.target == quadloom.gemm.default:
        a, b, bias, transpose_a, *_ = node.args
        return not transpose_a and _is_rows(a, positions) and not _is_rows(b, positions) and _fits(bias, positions)  # type: ignore[arg-type]
    if node.target == aten.reshape.default:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return _is_rows(source, positions) and val(source).shape[-1] == val(node).shape[-1]
    return node.target in POINTWISE and all(_fits(each, positions) for each in node.args)


def _fits(argument: object, positions: int) -> bool:
    """Whether an operand is one value or vector for all rows, or has a row of its own for each row of every example."""
    if not isinstance(argument, fx.Node):
        return True
    shape = batch_free_shape(argument)
    return _is_rows(argument, positions) or (-1 not in shape and shape[-2:-1] != [positions])


def _sums_rows(node: fx.Node, positions: int) -> bool:
    """Whether a product sums over all rows, as the gradient of a weight does."""
    if node.target != quadloom.gemm.default or _is_rows(node, positions):
        return False
    a, b, _, transpose_a, transpose_b, _ = node.args
    return bool(transpose_a) and not transpose_b and _is_rows(a, positions) and _is_rows(b, positions)  # type: ignore[arg-type]


@dataclass
class _Splitting:
    """Rewrites one layer."""

    joint: JointGraph
    region: _Region
    count: int
    shares: dict[tuple[fx.Node, int], fx.Node] = field(default_factory=dict)

    def run(self) -> None:
        """Replace the region's nodes by their shares; what reads them from outside gets them put together."""
        for members in (self.region.forward, self.region.backward):
            if members:
                self._run_phase(members)
        for node in reversed((*self.region.forward, *self.region.backward)):
            self._graph.erase_node(node)

    @property
    def _graph(self) -> fx.Graph:
        return self.joint.graph

    def _run_phase(self, members: tuple[fx.Node, ...]) -> None:
        self._let_others_wait(members)
        inside = {*self.region.forward, *self.region.backward}
        before = members[-1].next
        with self._graph.inserting_before(before):
            for index in range(self.count):
                for node in members:
                    self._share(node, index)
            for node in members:
                readers = [user for user in node.users if user not in inside]
                if readers:
                    whole = self._whole(node)
                    for reader in readers:
                        reader.replace_input_with(node, whole)

    def _let_others_wait(self, members: tuple[fx.Node, ...]) -> None:
        """Move what reads a result of the region, and stands among its nodes, behind it."""
        waiting: set[fx.Node] = set()
        place, last = members[0].next, members[-1]
        end = last
        while place is not last:
            following = place.next
            if place not in members and any(each in members or each in waiting for each in place.all_input_nodes):
                waiting.add(place)
                end.append(place)
                end = place
            place = following

    def _share(self, node: fx.Node, index: int) -> None:
        args = tuple(self._of(each, index, node) if isinstance(each, fx.Node) else each for each in node.args)
        if _sums_rows(node, self.region.positions) and index > 0:
            args = (*args[:2], self.shares[node, index - 1], *args[3:])
        if node.target == aten.reshape.default:
            args = (args[0], self._shape(node))
        made = emit(self._graph, node.target, args, like=node, kwargs=dict(node.kwargs))
        made.meta |= {key: node.meta[key] for key in ("bounds",) if key in node.meta}
        self.shares[node, index] = made

    def _of(self, operand: fx.Node, index: int, reader: fx.Node) -> fx.Node:
        """A share of an operand; of a stored weight a copy for this reader alone."""
        if is_weight_copy(operand):
            return emit(self._graph, operand.target, operand.args, like=reader)
        if (operand, index) in self.shares or not _is_rows(operand, self.region.positions):
            return self.shares.get((operand, index), operand)
        key = (operand, index)
        size = self.region.positions // self.count
        rows = operand
        if val(operand).dim() == 2:
            full = [-1, self.region.positions, val(operand).shape[-1]]
            rows = emit(self._graph, aten.reshape.default, (operand, full), like=reader)
        part = emit(self._graph, aten.slice.Tensor, (rows, 1, index * size, (index + 1) * size), like=reader)
        if val(operand).dim() == 2:
            part = emit(self._graph, aten.reshape.default, (part, [-1, val(operand).shape[-1]]), like=reader)
        self.shares[key] = part
        return part

    def _whole(self, node: fx.Node) -> fx.Node:
        """The shares of a node put together."""
        parts = [self.shares[node, index] for index in range(self.count)]
        if _sums_rows(node, self.region.positions):
            return parts[-1]
        width, size = val(node).shape[-1], self.region.positions // self.count
        if val(node).dim() == 2:
            parts = [emit(self._graph, aten.reshape.default, (each, [-1, size, width]), like=node) for each in parts]
        whole = emit(self._graph, aten.cat.default, (parts, 1), like=node)
        if val(node).dim() == 2:
            whole = emit(self._graph, aten.reshape.default, (whole, [-1, width]), like=node)
        return whole

    def _shape(self, node: fx.Node) -> list[int]:
        shape = batch_free_shape(node)
        return [-1, self.region.positions // self.count, shape[2]] if len(shape) == 3 else shape
