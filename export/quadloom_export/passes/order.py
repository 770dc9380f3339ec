"""Delay operators where that lowers the memory alive around them.

A gradient that is read only later need not be made before the operator that frees what its neighbours read. One
operator is looked at after the other, each with the few places behind it that it could move to.
"""

from collections.abc import Sequence

import torch
from torch import fx

from quadloom_export.graph import JointGraph, size_bytes
from quadloom_export.liveness import can_overwrite, last_uses, plan_memory, storage

aten = torch.ops.aten

FARTHEST = 12
"""Places behind an operator that are looked at."""
SMALL_SHARE = 1 / 64
"""Where an operator stands that makes less than this share of the largest tensor makes no difference."""


def delay(joint: JointGraph) -> JointGraph:
    """An equal graph whose peak is not higher, and lower where an operator of the backward ran too early."""
    result = joint.copy()
    _sink_views(result.graph)
    order = result.nodes
    last = last_uses(result)
    tensors = [node for node in order if isinstance(node.meta["val"], torch.Tensor)]
    least = SMALL_SHARE * max((size_bytes(node) for node in tensors), default=0)
    for node in tensors:
        if node.meta["phase"] == "backward" and node.target != aten.reshape.default and size_bytes(node) >= least:
            _delay(node, last)
    return result if plan_memory(result).peak_bytes < plan_memory(joint).peak_bytes else joint


def _sink_views(graph: fx.Graph) -> None:
    """Move every view right before its first reader; it takes no memory wherever it stands."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in reversed(list(graph.nodes)):
        if node.target == aten.reshape.default and node.users:
            min(node.users, key=place.__getitem__).prepend(node)
            # Only its order among the views before the same reader is lost, and it is behind those it reads.
            place[node] = place[min(node.users, key=place.__getitem__)]


def _delay(node: fx.Node, last: dict[fx.Node, fx.Node | None]) -> None:
    behind: list[fx.Node] = []
    following = node.next
    while len(behind) < FARTHEST and following.op == "call_function" and node not in following.all_input_nodes:
        behind.append(following)
        following = following.next
    candidates = [[*behind[:place], node, *behind[place:]] for place in range(len(behind) + 1)]
    fillings = [_fillings(each, last) for each in candidates]
    best = fillings.index(min(fillings))
    if best > 0:
        behind[best - 1].append(node)
        _move_deaths(candidates[best], last)


def _fillings(order: Sequence[fx.Node], last: dict[fx.Node, fx.Node | None]) -> list[int]:
    """Bytes alive while each node of a stretch runs, beyond those that were alive before it; largest first."""
    deaths = _deaths(order, last)
    alive, found = 0, []
    for node in order:
        dying = [each for each, by in deaths.items() if by is node]
        if node.target != aten.reshape.default and isinstance(node.meta["val"], torch.Tensor):
            overwritten = next((each for each in dying if can_overwrite(node, each)), None)
            alive += 0 if overwritten in dying else size_bytes(node)
            dying = [each for each in dying if each is not overwritten]
        found.append(alive)
        alive -= sum(map(size_bytes, dying))
    return sorted(found, reverse=True)


def _deaths(order: Sequence[fx.Node], last: dict[fx.Node, fx.Node | None]) -> dict[fx.Node, fx.Node]:
    """The storages that die within a stretch, with the node after which they do."""
    inside = set(order)
    deaths = {}
    for node in order:
        for read in node.all_input_nodes:
            source = storage(read)
            if last.get(source) in inside:
                deaths[source] = node
    return deaths


def _move_deaths(order: Sequence[fx.Node], last: dict[fx.Node, fx.Node | None]) -> None:
    last.update(_deaths(order, last))
