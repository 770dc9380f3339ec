"""Use again in the backward what it made before, as far as memory has room.

What the backward dequantizes or recomputes is made anew for readers far apart, so that it does not take memory in
between. Only around the peak does that lower what a step takes: the further the backward gets, the more of the stash
is gone, and there a tensor may as well wait for its next reader.
"""

from typing import Any

import torch
from torch import fx

from quadloom_export.graph import JointGraph, remove_dead, size_bytes
from quadloom_export.liveness import alive_bytes, plan_memory
from quadloom_export.passes.weight_only import is_weight_copy

aten = torch.ops.aten


def reuse(joint: JointGraph) -> JointGraph:
    """An equal graph with the same peak in which the backward makes fewer things twice."""
    result = joint.copy()
    room = _Room(result)
    number = _value_numbers(result)
    earlier: dict[int, list[fx.Node]] = {}
    for node in result.nodes:
        if _may_wait(node):
            earlier.setdefault(number[node], []).append(node)
    # From the end, so that what is derived is tried before what it is derived from.
    for node in reversed(result.nodes):
        # Those without readers were erased, or are about to be.
        equal = [each for each in earlier.get(number[node], []) if each.users]
        if node not in equal[1:]:
            continue
        before = equal[equal.index(node) - 1]
        if room.is_enough(before, until=node):
            room.take(before, until=node)
            node.replace_all_uses_with(before)
            _erase(result.graph, node)
    remove_dead(result.graph)
    return result if plan_memory(result).peak_bytes <= plan_memory(joint).peak_bytes else joint


def _may_wait(node: fx.Node) -> bool:
    """Whether a node makes a tensor of its own in the backward. A stored weight is copied for each of its readers."""
    return (
        node.meta["phase"] == "backward"
        and node.target != aten.reshape.default
        and isinstance(node.meta["val"], torch.Tensor)
        and not is_weight_copy(node)
    )


class _Room:
    """Bytes that each place of the order has left below the peak."""

    def __init__(self, joint: JointGraph) -> None:
        self._place = {node: index for index, node in enumerate(joint.nodes)}
        self._alive = alive_bytes(joint)
        self._peak = max(self._alive, default=0)

    def is_enough(self, waiting: fx.Node, *, until: fx.Node) -> bool:
        """Whether a tensor may wait from its last reader, which could have written over it, for a later place."""
        between = self._alive[self._last_use(waiting) : self._place[until]]
        return max(between, default=0) + size_bytes(waiting) <= self._peak

    def take(self, waiting: fx.Node, *, until: fx.Node) -> None:
        """Let it wait."""
        for place in range(self._last_use(waiting), self._place[until]):
            self._alive[place] += size_bytes(waiting)

    def _last_use(self, node: fx.Node) -> int:
        views = [user for user in node.users if user.target == aten.reshape.default]
        own = max((self._place[user] for user in node.users if user in self._place), default=self._place[node])
        return max([own, *(self._last_use(view) for view in views)])


def _value_numbers(joint: JointGraph) -> dict[fx.Node, int]:
    """Equal numbers for nodes that compute the same."""
    numbers: dict[Any, int] = {}
    found: dict[fx.Node, int] = {}
    for node in (*joint.inputs, *joint.nodes):
        key = node if node.op == "placeholder" else (node.target, _key(node.args, found), _key(node.kwargs, found))
        found[node] = numbers.setdefault(key, len(numbers))
    return found


def _key(argument: Any, found: dict[fx.Node, int]) -> Any:
    if isinstance(argument, fx.Node):
        return ("node", found[argument])
    if isinstance(argument, list | tuple):
        return tuple(_key(each, found) for each in argument)
    if isinstance(argument, dict):
        return tuple((name, _key(each, found)) for name, each in sorted(argument.items()))
    return (type(argument).__name__, argument)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Drop a node that nobody reads, and what only it read."""
    inputs = node.all_input_nodes
    graph.erase_node(node)
    for each in inputs:
        if not each.users and each.op == "call_function":
            _erase(graph, each)
