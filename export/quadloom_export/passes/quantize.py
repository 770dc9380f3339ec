"""Keep the stash of some layers as INT8 or INT4 between forward and backward.

Each stashed tensor is quantized once, right after its last use in the forward, and dequantized right before its use in
the backward, with dynamic scales per row or per group of a row; an INT8 tensor whose values are bounded by what it is
has one scale that is known before. FedQuad (arXiv 2506.01001), section 4.2, quantizes
activations the same way, with symmetric scales; a scale and a zero point per group (Jacob et al., arXiv 1712.05877)
about halve the error, since no part of the range goes to values that a group does not have. Storing the square root of
softmax probabilities is ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from quadloom_export.graph import JointGraph, batch_axis, batch_free_shape, emit, shape_of, val
from quadloom_export.passes.stash import Place, SavedTensor, saved_tensors
from quadloom_export.semantic_ops import smallest_stored, step_share

aten = torch.ops.aten
quadloom = torch.ops.quadloom

SMALLEST_QUANTIZED = 4096
"""Elements below which a tensor stays as it is: scales and extra operators would cost more than they save."""
SHARING_DISTANCE = 12
"""Backward readers at most this many nodes apart share one dequantized copy."""
QUANTIZING = {quadloom.quantize.default, quadloom.quantize_fixed.default}
Call = Callable[[Any, tuple[Any, ...]], Any]
"""Applies an operator to arguments: adds a node to a graph, or computes."""


@dataclass(frozen=True)
class StashFormat:
    """How a stash is stored.

    Attributes:
        bits: 8 or 4 per element.
        group_size: elements that share a scale: a part of a row, or several rows that are shorter; rows that fit
            neither way have one scale each. Residual sums have half as many.
    """

    bits: int = 8
    group_size: int = 64

    @property
    def levels(self) -> int:
        """Largest stored integer."""
        return 255 if self.bits == 8 else 15


@dataclass(frozen=True)
class StashFormats:
    """How each stashed tensor is stored: as `chosen` for its place, otherwise as the rest."""

    rest: StashFormat = StashFormat()
    chosen: Mapping[Place, StashFormat] = field(default_factory=dict)

    def at(self, place: Place) -> StashFormat:
        """The format of one place."""
        return self.chosen.get(place, self.rest)


def quantize_stash(joint: JointGraph, *, quantized_layers: int, formats: StashFormats) -> JointGraph:
    """Quantize the stash of the `quantized_layers` trained layers farthest from the output.

    Integer, boolean and small tensors stay as they are. `joint` must have gone through `save_bases_only`.
    """
    result = joint.copy(quantized_layers=quantized_layers)
    for saved in quantizable(result, quantized_layers):
        stash_format = formats.at(saved.place)
        if fits(saved.node, stash_format):
            _quantize(result.graph, saved.node, stash_format)
    return result


def quantizable(joint: JointGraph, quantized_layers: int) -> list[SavedTensor]:
    """What `quantize_stash` looks at: the float32 tensors of these layers that are not small."""
    layers = range(joint.layers - joint.depth, joint.layers - joint.depth + quantized_layers)
    return [
        saved
        for saved in saved_tensors(joint)
        if saved.layer in layers
        and val(saved.node).dtype == torch.float32
        and val(saved.node).numel() >= SMALLEST_QUANTIZED
    ]


def fits(node: fx.Node, stash_format: StashFormat) -> bool:
    """Whether the groups of a tensor are worth a scale, and can be packed."""
    group = _group(node, stash_format)
    return group >= 8 and group % 2 == 0


def stored_bytes(node: fx.Node, stash_format: StashFormat) -> int:
    """Bytes of a tensor in this format at the family's batch size, scales and zero points included."""
    elements = val(node).numel()
    if _fixed_scale(node, stash_format) is not None:
        return elements
    per_group = 4 if _lower_bound(node) is not None else 5
    return elements * stash_format.bits // 8 + elements // _group(node, stash_format) * per_group


def round_trip(node: fx.Node, value: Tensor, stash_format: StashFormat) -> Tensor:
    """What the backward reads in place of the forward's `value` of `node`."""
    stored = _store(_compute, node, value, stash_format)
    return _restore(_compute, node, stored, list(value.shape))  # type: ignore[no-any-return]


def quantized_elements(joint: JointGraph) -> int:
    """Stash elements that one step quantizes."""
    return sum(val(node).numel() for node in joint.nodes if node.target in QUANTIZING)


def _group(node: fx.Node, stash_format: StashFormat) -> int:
    """Elements that share a scale: part of a row, or neighbouring rows of one example that fill a group."""
    row, wanted = shape_of(node)[-1], stash_format.group_size
    if _is_residual_sum(node):
        wanted //= 2
    return wanted if row % wanted == 0 or (wanted % row == 0 and _example(node) % wanted == 0) else row


def _example(node: fx.Node) -> int:
    """Neighbouring elements of one example."""
    axis = batch_axis(node)
    return prod(shape_of(node)[(0 if axis is None else axis + 1) :])


def _quantize(graph: fx.Graph, node: fx.Node, stash_format: StashFormat) -> None:
    position = {each: index for index, each in enumerate(graph.nodes)}
    readers = sorted((user for user in node.users if user.meta.get("phase") == "backward"), key=position.__getitem__)
    last_forward = max((user for user in (node, *node.users) if user not in readers), key=position.__getitem__)
    with graph.inserting_after(last_forward):
        anchor = graph.call_function(aten.alias.default, (node,))
    with graph.inserting_before(anchor):
        stored = _store(partial(emit, graph, like=node), node, node, stash_format)
    graph.erase_node(anchor)
    restored, restored_at = None, -SHARING_DISTANCE
    for reader in readers:
        if restored is None or position[reader] - restored_at > SHARING_DISTANCE:
            with graph.inserting_before(reader):
                restored = _restore(partial(emit, graph, like=reader), node, stored, batch_free_shape(node))
        restored_at = position[reader]
        reader.replace_input_with(node, restored)


@dataclass(frozen=True)
class _Stored:
    """What waits; `scale` and `zero` are None where bounds of the values tell them. Nodes of a graph, or tensors."""

    packed: Any
    scale: Any
    zero: Any
    stash_format: StashFormat


def _store(call: Call, node: fx.Node, value: Any, stash_format: StashFormat) -> _Stored:
    # Softmax probabilities bunch near zero, where linear steps are coarse; their square roots spread out.
    source = call(aten.sqrt.default, (value,)) if _is_probability(node) else value
    fixed = _fixed_scale(node, stash_format)
    if fixed is not None:
        return _Stored(call(quadloom.quantize_fixed.default, (source, *fixed)), None, None, stash_format)
    rows = call(aten.reshape.default, (source, [-1, _group(node, stash_format)]))
    bound = _lower_bound(node)
    minimum = call(quadloom.row_minimum.default, (rows,)) if bound is None else None
    scale = call(quadloom.row_scale.default, (rows, minimum, bound or 0.0, stash_format.levels))
    zero = call(quadloom.zero_point.default, (scale, minimum, bound or 0.0, stash_format.levels))
    packed = call(quadloom.quantize.default, (rows, scale, zero))
    if stash_format.bits == 4:
        packed = _paired(call, packed, _example(node))
    return _Stored(packed, scale, zero if bound is None else None, stash_format)


def _restore(call: Call, node: fx.Node, stored: _Stored, shape: list[int]) -> Any:
    fixed = _fixed_scale(node, stored.stash_format)
    if fixed is not None:
        return call(quadloom.dequantize_fixed.default, (stored.packed, *fixed))
    bound, zero = _lower_bound(node), stored.zero
    if bound is not None:
        zero = call(quadloom.zero_point.default, (stored.scale, None, bound, stored.stash_format.levels))
    unpacked = stored.packed
    if stored.stash_format.bits == 4:
        unpacked = _unpaired(call, stored.packed, _group(node, stored.stash_format))
    rows = call(quadloom.dequantize.default, (unpacked, stored.scale, zero))
    tensor = call(aten.reshape.default, (rows, shape))
    return call(aten.mul.Tensor, (tensor, tensor)) if _is_probability(node) else tensor


def _paired(call: Call, values: Any, example: int) -> Any:
    """``(rows, group)`` uint8 below 16 -> ``(examples, example / 2)``: the first half of each with the second.

    Whole halves, since columns would be gathered piece by piece.
    """
    halves = call(aten.reshape.default, (values, [-1, 2, example // 2]))
    low, high = (call(aten.slice.Tensor, (halves, 1, place, place + 1)) for place in (0, 1))
    return call(aten.bitwise_or.Tensor, (low, call(aten.bitwise_left_shift.Tensor_Scalar, (high, 4))))


def _unpaired(call: Call, pairs: Any, group: int) -> Any:
    """Undo `_paired`."""
    low, high = call(aten.bitwise_and.Scalar, (pairs, 15)), call(aten.bitwise_right_shift.Tensor_Scalar, (pairs, 4))
    return call(aten.reshape.default, (call(aten.cat.default, ([low, high], 1)), [-1, group]))


def _compute(target: Any, args: tuple[Any, ...]) -> Any:
    return target(*args)


def _is_probability(node: fx.Node) -> bool:
    return node.target == aten._softmax.default


def _is_residual_sum(node: fx.Node) -> bool:
    """Whether a tensor is what a norm reads: few of its columns are large in every row, and spoil their groups.

    Dettmers et al. (arXiv 2208.07339) describe these outliers of pretrained models.
    """
    if node.target != aten.add.Tensor or "bounds" in node.meta:
        return False
    inputs = node.all_input_nodes
    return len(inputs) == 2 and all(each.op == "call_function" and shape_of(each) == shape_of(node) for each in inputs)


def _lower_bound(node: fx.Node) -> float | None:
    """What no value of a tensor, as it is stored, lies below; None if that is not known."""
    return 0.0 if _is_probability(node) else node.meta.get("bounds", (None,))[0]


def _fixed_scale(node: fx.Node, stash_format: StashFormat) -> tuple[float, int] | None:
    """Scale and zero point for all values that a bounded tensor can have, None for other tensors and for INT4.

    255 steps are fine enough for the whole range; of 15, those matter that a group of small values would not use.
    """
    if stash_format.bits != 8 or "bounds" not in node.meta:
        return None
    lowest, largest = node.meta["bounds"]
    scale = (largest - lowest) * step_share(stash_format.levels)
    return scale, smallest_stored(stash_format.levels) - round(lowest / scale)
