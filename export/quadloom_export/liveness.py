"""The memory plan: which tensors are alive at each step of the linear order, and what fills the peak.

Counted is what a step allocates: not the weights, not the inputs that the caller holds. A view shares the memory of
its source; every other operator writes a buffer of its own that lives until its last reader has run. ONNX Runtime does
just that with the graphs of `lowering.onnx` (see there), so the plan is what a step really needs.
"""

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import fx

from quadloom_export.graph import JointGraph, size_bytes
from quadloom_runtime.contract.manifest import PeakItem

aten = torch.ops.aten


@dataclass(frozen=True)
class MemoryPlan:
    """Result of the liveness walk.

    Attributes:
        peak_bytes: the largest sum of live bytes.
        peak_node: name of the node that runs at the peak.
        live: storage node and bytes of everything alive at the peak.
        items: the same, grouped for people, largest first.
    """

    peak_bytes: int
    peak_node: str
    live: tuple[tuple[fx.Node, int], ...]
    items: tuple[PeakItem, ...]


def plan_memory(joint: JointGraph) -> MemoryPlan:
    """Walk the linear order once and find its peak."""
    live: dict[fx.Node, int] = {}
    total = peak = 0
    at_peak: dict[fx.Node, int] = {}
    peak_node = ""
    for node, (made, dying) in zip(joint.nodes, lifetimes(joint), strict=True):
        live.update(made)
        total += sum(size for _, size in made)
        if total > peak:
            peak, at_peak, peak_node = total, dict(live), node.name
        for gone in dying:
            total -= live.pop(gone)
    return MemoryPlan(peak, peak_node, tuple(at_peak.items()), _items(joint, at_peak))


def lifetimes(joint: JointGraph) -> list[tuple[list[tuple[fx.Node, int]], list[fx.Node]]]:
    """Per node in order: the storages that it allocates, with their bytes, and those that die once it has run."""
    nodes = joint.nodes
    last_use = _last_uses(joint, nodes)
    dying: dict[int, list[fx.Node]] = defaultdict(list)
    for made in (each for node in nodes for each in _allocated_by(node)):
        dying[last_use[made]].append(made)
    return [
        ([(made, size_bytes(made)) for made in _allocated_by(node)], dying[position])
        for position, node in enumerate(nodes)
    ]


def storage(node: fx.Node) -> fx.Node:
    """The node whose memory `node` lies in."""
    while node.target == aten.reshape.default:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _allocated_by(node: fx.Node) -> list[fx.Node]:
    """Storages that running `node` creates; an operator with several outputs creates those that are read."""
    if node.target in (operator.getitem, aten.reshape.default):
        return []
    if isinstance(node.meta["val"], torch.Tensor):
        return [node]
    return [user for user in node.users if user.target is operator.getitem]


def _last_uses(joint: JointGraph, nodes: list[fx.Node]) -> dict[fx.Node, int]:
    last: dict[fx.Node, int] = defaultdict(lambda: -1)
    for position, node in enumerate(nodes):
        for made in _allocated_by(node):
            last[made] = max(last[made], position)
        for read in node.all_input_nodes:
            last[storage(read)] = position
    for node in joint.results.values():
        last[storage(node)] = len(nodes)
    return last


def _items(joint: JointGraph, live: dict[fx.Node, int]) -> tuple[PeakItem, ...]:
    outputs = {storage(node) for node in joint.results.values()}
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for node, size in live.items():
        groups[_describe(node), node.meta["layer"], _kind(node, outputs)].append(size)
    rows = [
        PeakItem(what=what, layer=layer, kind=kind, size_bytes=sum(sizes), tensors=len(sizes))  # type: ignore[arg-type]
        for (what, layer, kind), sizes in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.size_bytes))


def _kind(node: fx.Node, outputs: set[fx.Node]) -> str:
    if node in outputs:
        return "output"
    crosses = node.meta["phase"] == "forward" and any(
        user.meta.get("phase") == "backward" for reader in (node, *_views(node)) for user in reader.users
    )
    return "stash" if crosses else "transient"


def _views(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target == aten.reshape.default]


def _describe(node: fx.Node) -> str:
    source = node.args[0] if node.target is operator.getitem else node
    assert isinstance(source, fx.Node)
    name = getattr(source.target, "_opname", str(source.target))
    dtype = str(node.meta["val"].dtype).removeprefix("torch.")
    return f"{name} {dtype} {list(node.meta['val'].shape)}"
