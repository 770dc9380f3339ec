"""Find the stash: what the forward leaves for the backward."""

from dataclasses import dataclass

import torch
from torch import fx

from quadloom_export.graph import JointGraph, batch_free_shape, emit, remove_dead, size_bytes

aten = torch.ops.aten


@dataclass(frozen=True)
class SavedTensor:
    """One stashed tensor.

    Attributes:
        node: the forward node that makes it.
        layer: the highest layer whose backward reads it; the number of layers stands for the head. A tensor between
            two layers belongs to the upper one, so noise in it never reaches a layer above the quantized ones.
    """

    node: fx.Node
    layer: int

    @property
    def size_bytes(self) -> int:
        """Bytes while it waits."""
        return size_bytes(self.node)


def save_bases_only(joint: JointGraph) -> JointGraph:
    """Repeat views in the backward, so that what is saved is the tensor and not a view of it."""
    result = joint.copy()
    for node in result.nodes:
        if node.meta["phase"] == "forward" and node.target == aten.reshape.default:
            _repeat_view(result.graph, node)
    remove_dead(result.graph)
    return result


def _repeat_view(graph: fx.Graph, view: fx.Node) -> None:
    for user in [each for each in view.users if each.meta.get("phase") == "backward"]:
        with graph.inserting_before(user):
            again = emit(graph, aten.reshape.default, (view.args[0], batch_free_shape(view)), like=user)
        user.replace_input_with(view, again)


def saved_tensors(joint: JointGraph) -> list[SavedTensor]:
    """The stash in the order in which it is made. Inputs and weights are not part of it: they exist anyway."""
    found = []
    for node in joint.nodes:
        readers = [user for user in node.users if user.op == "call_function" and user.meta["phase"] == "backward"]
        if node.meta["phase"] == "forward" and readers and isinstance(node.meta["val"], torch.Tensor):
            layers = [joint.layers if user.meta["layer"] == "head" else user.meta["layer"] for user in readers]
            found.append(SavedTensor(node, max(layers)))
    return found


def stash_bytes(joint: JointGraph) -> int:
    """Bytes that wait between forward and backward."""
    return sum(saved.size_bytes for saved in saved_tensors(joint))
