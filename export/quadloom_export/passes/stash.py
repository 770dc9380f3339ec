"""Find the stash: what the forward leaves for the backward."""

import operator
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import fx

from quadloom_export.graph import JointGraph, batch_free_shape, emit, remove_dead, size_bytes

aten = torch.ops.aten


class Place(NamedTuple):
    """Where a stashed tensor belongs: its kind, which equally built layers share, and its layer."""

    kind: str
    layer: int


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

    @property
    def place(self) -> Place:
        """The same in every member of a family; shares of one tensor's rows have one place."""
        return Place(kind_of(self.node), self.layer)


def kind_of(node: fx.Node) -> str:
    """What made a tensor: the operator and, of its layer, the weights that went in last, ``self.query.lora_B permute``.

    Tensors that this does not tell apart count as one kind.
    """
    front, seen = [node], {node}
    while front:
        keys = {
            each.meta["key"]
            for reader in front
            for each in reader.all_input_nodes
            if each.meta.get("role") in ("parameter", "frozen") and not each.meta["key"].startswith("constant.")
        }
        if keys:
            break
        inputs = dict.fromkeys(each for reader in front for each in reader.all_input_nodes)
        front = [each for each in inputs if each not in seen and each.meta.get("layer") == node.meta["layer"]]
        seen.update(front)
    else:
        keys = set()
    return " ".join([*sorted({_short_name(key) for key in keys}), _operator_name(node)])


def _short_name(key: str) -> str:
    """A weight's name within its layer, without what every weight's name ends in."""
    return re.sub(r"^.*\.\d+\.", "", key).removesuffix(".weight").removesuffix(".bias")


def _operator_name(node: fx.Node) -> str:
    if node.target is operator.getitem:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return f"{_operator_name(source)}.{node.args[1]}"
    return str(getattr(node.target, "_opname", node.target)).removeprefix("_")


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
