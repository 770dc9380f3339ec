"""Which tensors of a program may lie where an operand lay that nobody reads afterwards.

ExecuTorch gives every result a place of its own beside the operands of its operator. The kernels named here read the
elements at a place before they write that place, and no others, so they may write over an operand of the same size.
"""

from collections.abc import Iterator
from typing import Any

from torch import fx

IN_PLACE = {
    "aten.add.out",
    "aten.add.Scalar_out",
    "aten.sub.out",
    "aten.sub.Scalar_out",
    "aten.rsub.Scalar_out",
    "aten.mul.out",
    "aten.mul.Scalar_out",
    "aten.div.out",
    "aten.div.Scalar_out",
    "aten.neg.out",
    "aten.abs.out",
    "aten.exp.out",
    "aten.gelu.out",
    "aten.sqrt.out",
    "aten.reciprocal.out",
    "aten.clamp.out",
    "aten.bitwise_and.Scalar_out",
    "aten.bitwise_or.Tensor_out",
    "aten.bitwise_left_shift.Tensor_Scalar_out",
    "aten.bitwise_right_shift.Tensor_Scalar_out",
}
"""Kernels of the portable and the optimized library."""
IN_PLACE_DELEGATES = {"aten.exp.default", "aten.sqrt.default", "aten.gelu.default", "aten._softmax.default"}
"""Operators of XNNPACK; its softmax goes through a row three times, writing where it has just read."""


def overwritten(graph_module: fx.GraphModule) -> dict[int, Any]:
    """Per specification of a tensor that is written over another: the one that was in that place first.

    Args:
        graph_module: a method as the memory planning finds it: with the lifetime of every tensor, in positions of the
            graph's nodes.

    Returns:
        By ``id`` of the specification, since specifications are compared by their contents.
    """
    first: dict[int, Any] = {}
    for position, node in enumerate(graph_module.graph.nodes):
        if not _writes_in_place(graph_module, node):
            continue
        result = node.meta["spec"]
        for source in _operands(node):
            if source.lifetime[1] == position and _equally_large(source, result):
                first[id(result)] = first.get(id(source), source)
                break
    return first


def _writes_in_place(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if getattr(node.target, "__name__", None) == "executorch_call_delegate":
        lowered = getattr(graph_module, str(node.args[0].target))  # type: ignore[union-attr]
        calls = [each for each in lowered.original_module.graph.nodes if each.op == "call_function"]
        return [each.target.__name__ for each in calls] in [[name] for name in IN_PLACE_DELEGATES]
    return str(node.target) in IN_PLACE


def _operands(node: fx.Node) -> Iterator[Any]:
    for each in node.args:
        if isinstance(each, fx.Node) and each.op == "call_function":
            spec = each.meta["spec"]
            while hasattr(spec, "_base"):
                spec = spec._base
            yield spec


def _equally_large(a: Any, b: Any) -> bool:
    return bool(not a.const and a.dtype == b.dtype and a.allocated_memory == b.allocated_memory)
