"""From a traced graph to ExecuTorch's edge dialect in one walk.

``executorch.exir.to_edge`` takes any model: it decomposes the graph and then runs it through a dozen passes, each of
which traces every node anew. The graphs here come decomposed and functional, so what is left to do is little, and it
can be done in place: of the time to lower a member, `to_edge` took more than half.
"""

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

aten = torch.ops.aten
Scalar = bool | int | float
REVERSED = {
    aten.add.Tensor: aten.add.Scalar,
    aten.mul.Tensor: aten.mul.Scalar,
    aten.sub.Tensor: aten.rsub.Scalar,
}
"""What ``number op tensor`` is as ``op'(tensor, number)``."""


def to_edge_dialect(graph: fx.Graph) -> None:
    """Rewrite a graph in place.

    - A number where an operator expects a tensor becomes the operator that takes a number.
    - Views become copies: the runtime has no strides (and elides what can be elided later).
    - Every operator becomes its counterpart in ExecuTorch's edge dialect.

    Raises:
        ValueError: an operator that takes no number was given one.
    """
    from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge, should_lower_to_edge

    for node in graph.nodes:
        if node.op != "call_function":
            continue
        _take_numbers(node)
        node.target = _copying(node.target)
        if should_lower_to_edge(node.target):
            node.target = aten_to_edge(node.target)
    graph.eliminate_dead_code()


def _take_numbers(node: fx.Node) -> None:
    if not isinstance(node.target, OpOverload):
        return
    pairs = zip(node.args, node.target._schema.arguments, strict=False)
    misplaced = [i for i, (given, wanted) in enumerate(pairs) if _is_number_for_tensor(given, wanted)]
    if not misplaced:
        return
    swapped = REVERSED.get(node.target) if misplaced == [0] else None
    if (misplaced != [1] and swapped is None) or "Scalar" not in node.target.overloadpacket.overloads():
        raise ValueError(f"{node.target} was given numbers for tensors: {node.format_node()}")
    if swapped is not None:
        number, tensor, *rest = node.args
        node.target, node.args = swapped, (tensor, number, *rest)
    else:
        node.target = node.target.overloadpacket.Scalar


def _is_number_for_tensor(given: Any, wanted: torch.Argument) -> bool:
    return isinstance(given, Scalar) and isinstance(wanted.type, torch.TensorType)


def _copying(target: Any) -> Any:
    if not isinstance(target, OpOverload) or not target.is_view:
        return target
    packet = getattr(torch.ops.aten, f"{target.overloadpacket.__name__}_copy")
    return getattr(packet, target._overloadname)
