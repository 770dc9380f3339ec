"""Keep the stash of some layers as INT8 or INT4 between forward and backward.

Each stashed tensor is quantized once, right after its last use in the forward, and dequantized right before its use in
the backward, with dynamic symmetric scales per row or per group of a row. FedQuad (arXiv 2506.01001), section 4.2,
quantizes activations the same way; storing the square root of softmax probabilities is ours.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import fx

from quadloom_export.graph import JointGraph, batch_axis, batch_free_shape, emit, shape_of, val
from quadloom_export.passes.stash import SavedTensor, saved_tensors

aten = torch.ops.aten
quadloom = torch.ops.quadloom

SMALLEST_QUANTIZED = 4096
"""Elements below which a tensor stays as it is: scales and extra operators would cost more than they save."""
SHARING_DISTANCE = 12
"""Backward readers at most this many nodes apart share one dequantized copy."""


@dataclass(frozen=True)
class StashFormat:
    """How a stash is stored.

    Attributes:
        bits: 8 or 4 per element.
        group_size: elements that share a scale: a part of a row, or several rows that are shorter; rows that fit
            neither way have one scale each.
    """

    bits: int = 8
    group_size: int = 64

    @property
    def levels(self) -> int:
        """Largest magnitude of a stored integer."""
        return 127 if self.bits == 8 else 7


def quantize_stash(joint: JointGraph, *, quantized_layers: int, stash_format: StashFormat) -> JointGraph:
    """Quantize the stash of the `quantized_layers` trained layers farthest from the output.

    Integer, boolean and small tensors stay as they are. `joint` must have gone through `save_bases_only`.
    """
    result = joint.copy(quantized_layers=quantized_layers)
    lowest = joint.layers - joint.depth
    for saved in saved_tensors(result):
        if lowest <= saved.layer < lowest + quantized_layers and _worth_quantizing(saved, stash_format):
            _quantize(result.graph, saved.node, stash_format)
    return result


def quantized_elements(joint: JointGraph) -> int:
    """Stash elements that one step quantizes."""
    return sum(val(node).numel() for node in joint.nodes if node.target == quadloom.quantize.default)


def _worth_quantizing(saved: SavedTensor, stash_format: StashFormat) -> bool:
    tensor = val(saved.node)
    group = _group(saved.node, stash_format)
    return tensor.dtype == torch.float32 and tensor.numel() >= SMALLEST_QUANTIZED and group >= 8 and group % 2 == 0


def _group(node: fx.Node, stash_format: StashFormat) -> int:
    """Elements that share a scale: part of a row, or neighbouring rows of one example that fill a group."""
    row, wanted = shape_of(node)[-1], stash_format.group_size
    axis = batch_axis(node)
    example = prod(shape_of(node)[(0 if axis is None else axis + 1) :])
    return wanted if row % wanted == 0 or (wanted % row == 0 and example % wanted == 0) else row


def _quantize(graph: fx.Graph, node: fx.Node, stash_format: StashFormat) -> None:
    position = {each: index for index, each in enumerate(graph.nodes)}
    readers = sorted((user for user in node.users if user.meta.get("phase") == "backward"), key=position.__getitem__)
    last_forward = max((user for user in (node, *node.users) if user not in readers), key=position.__getitem__)
    # Softmax probabilities bunch near zero, where linear steps are coarse; their square roots spread out.
    is_probability = node.target == aten._softmax.default
    with graph.inserting_after(last_forward):
        anchor = graph.call_function(aten.alias.default, (node,))
    with graph.inserting_before(anchor):
        source = emit(graph, aten.sqrt.default, (node,), like=node) if is_probability else node
        rows = emit(graph, aten.reshape.default, (source, [-1, _group(node, stash_format)]), like=node)
        bound = 0.0 if is_probability else node.meta.get("lower_bound")
        scale = emit(graph, quadloom.row_scale.default, (rows, stash_format.levels, bound), like=node)
        stored = emit(graph, quadloom.quantize.default, (rows, scale), like=node)
        if stash_format.bits == 4:
            stored = emit(graph, quadloom.pack_int4.default, (stored,), like=node)
    graph.erase_node(anchor)
    restored, restored_at = None, -SHARING_DISTANCE
    for reader in readers:
        if restored is None or position[reader] - restored_at > SHARING_DISTANCE:
            with graph.inserting_before(reader):
                restored = _dequantize(graph, node, stored, scale, reader, is_probability)
        restored_at = position[reader]
        reader.replace_input_with(node, restored)


def _dequantize(
    graph: fx.Graph, node: fx.Node, stored: fx.Node, scale: fx.Node, reader: fx.Node, is_probability: bool
) -> fx.Node:
    if val(stored).dtype == torch.uint8:
        stored = emit(graph, quadloom.unpack_int4.default, (stored,), like=reader)
        scale = emit(graph, aten.mul.Tensor, (scale, 1 / 16), like=reader)
    rows = emit(graph, quadloom.dequantize.default, (stored, scale), like=reader)
    tensor = emit(graph, aten.reshape.default, (rows, batch_free_shape(node)), like=reader)
    return emit(graph, aten.mul.Tensor, (tensor, tensor), like=reader) if is_probability else tensor
