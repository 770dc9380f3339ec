"""Compute a saved product again from factors that are saved anyway.

An RMS norm's backward needs its input x and the inverse deviation r; the LoRA behind it needs the norm's result,
``x * r * weight``. Two products over the width of a layer make it again, and a tensor of that size need not wait.
"""

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead
from quadloom_export.passes.stash import saved_tensors

aten = torch.ops.aten

SHARING_DISTANCE = 12
"""Backward readers at most this many nodes apart share one recomputed tensor."""


def recompute_products(joint: JointGraph) -> JointGraph:
    """An equal graph that saves no product of saved tensors, weights and numbers. Runs after `quantize_stash`."""
    result = joint.copy()
    saved = {each.node for each in saved_tensors(result)}
    position = {node: index for index, node in enumerate(result.graph.nodes)}
    for node in [each for each in result.nodes if each in saved and each.target == aten.mul.Tensor]:
        # What the head leaves is read right after it is made.
        if node.meta["layer"] != "head" and all(_is_at_hand(factor, saved - {node}) for factor in node.all_input_nodes):
            _recompute(result.graph, node, saved - {node}, position)
    remove_dead(result.graph)
    return result


def _is_at_hand(node: fx.Node, saved: set[fx.Node]) -> bool:
    """Whether the backward has `node`, or all that it is a product or view of."""
    if node in saved or node.op == "placeholder":
        return True
    if node.target not in (aten.mul.Tensor, aten.reshape.default):
        return False
    return all(_is_at_hand(each, saved) for each in node.all_input_nodes)


def _recompute(graph: fx.Graph, node: fx.Node, saved: set[fx.Node], position: dict[fx.Node, int]) -> None:
    readers = [user for user in node.users if user.meta.get("phase") == "backward" and user in position]
    product, made_at = node, -SHARING_DISTANCE
    for reader in sorted(readers, key=position.__getitem__):
        if product is node or position[reader] - made_at > SHARING_DISTANCE:
            with graph.inserting_before(reader):
                product, made_at = _again(graph, node, saved, like=reader), position[reader]
        reader.replace_input_with(node, product)


def _again(graph: fx.Graph, node: fx.Node, saved: set[fx.Node], *, like: fx.Node) -> fx.Node:
    if node in saved or node.op == "placeholder":
        return node
    arguments = tuple(
        _again(graph, each, saved, like=like) if isinstance(each, fx.Node) else each for each in node.args
    )
    return emit(graph, node.target, arguments, like=like)
