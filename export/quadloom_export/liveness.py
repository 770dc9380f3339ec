"""The memory plan: which tensors are alive at each step of the linear order, and what fills the peak.

Counted is what a step allocates: not the weights, not the inputs that the caller holds. A view shares the memory of
its source; every other operator writes a buffer of its own that lives until its last reader has run, or writes over an
operand that nobody else reads (`overwritten`). `lowering.onnx_arena` makes ONNX Runtime do just that.
"""

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import fx

from quadloom_export.graph import JointGraph, size_bytes, val
from quadloom_runtime.contract.manifest import PeakItem

aten = torch.ops.aten

IN_PLACE = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.exp.default,
    aten.sqrt.default,
    aten.reciprocal.default,
    aten._softmax.default,
    aten.bitwise_and.Scalar,
    aten.bitwise_or.Tensor,
    aten.bitwise_left_shift.Tensor_Scalar,
    aten.bitwise_right_shift.Tensor_Scalar,
}


@dataclass(frozen=True)
class MemoryPlan:
    """Result of the liveness walk.

    Attributes:
        peak_bytes: the largest sum of live bytes.
        peak_node: name of the node that runs at the peak.
        live: node and bytes of everything alive at the peak; of what is written over, the one there at that time.
        items: the same, grouped for people, largest first.
    """

    peak_bytes: int
    peak_node: str
    live: tuple[tuple[fx.Node, int], ...]
    items: tuple[PeakItem, ...]


def plan_memory(joint: JointGraph, *, in_place: bool = True) -> MemoryPlan:
    """Walk the linear order once and find its peak; `in_place` as in `lifetimes`."""
    owner = overwritten(joint) if in_place else {}
    live: dict[fx.Node, int] = {}
    tenant: dict[fx.Node, fx.Node] = {}
    total = peak = 0
    at_peak: dict[fx.Node, int] = {}
    peak_node = ""
    for node, (made, dying) in zip(joint.nodes, lifetimes(joint, in_place=in_place), strict=True):
        live.update(made)
        tenant.update((each, each) for each, _ in made)
        if node in owner:
            tenant[owner[node]] = node
        total += sum(size for _, size in made)
        if total > peak:
            peak, at_peak, peak_node = total, {tenant[each]: size for each, size in live.items()}, node.name
        for gone in dying:
            total -= live.pop(gone)
    return MemoryPlan(peak, peak_node, tuple(at_peak.items()), _items(joint, at_peak))


def lifetimes(joint: JointGraph, *, in_place: bool = True) -> list[tuple[list[tuple[fx.Node, int]], list[fx.Node]]]:
    """Per node in order: the storages that it allocates, with their bytes, and those that die once it has run.

    Args:
        in_place: whether operators write over operands as `overwritten` says.
    """
    nodes = joint.nodes
    owner = overwritten(joint) if in_place else {}
    last_use: dict[fx.Node, int] = {}
    for made, position in _last_uses(joint, nodes).items():
        root = owner.get(made, made)
        last_use[root] = max(position, last_use.get(root, -1))
    dying: dict[int, list[fx.Node]] = defaultdict(list)
    for made in (each for node in nodes for each in _allocated_by(node) if each not in owner):
        dying[last_use[made]].append(made)
    return [
        ([(made, size_bytes(made)) for made in _allocated_by(node) if made not in owner], dying[position])
        for position, node in enumerate(nodes)
    ]


def alive_bytes(joint: JointGraph) -> list[int]:
    """Bytes alive while each node runs, in order."""
    alive, found = 0, []
    for made, dying in lifetimes(joint):
        alive += sum(size for _, size in made)
        found.append(alive)
        alive -= sum(map(size_bytes, dying))
    return found


def overwritten(joint: JointGraph) -> dict[fx.Node, fx.Node]:
    """The tensors that are written over an operand which nobody reads afterwards: the storage that each lies in.

    Only operators that compute each element from the operands' elements at its own place can do that.
    """
    nodes = joint.nodes
    last_use = _last_uses(joint, nodes)
    owner: dict[fx.Node, fx.Node] = {}
    for position, node in enumerate(nodes):
        sources = [storage(each) for each in node.all_input_nodes]
        free = [each for each in sources if last_use.get(each) == position and can_overwrite(node, each)]
        if free:
            owner[node] = owner.get(free[0], free[0])
    return owner


def can_overwrite(node: fx.Node, source: fx.Node) -> bool:
    """Whether an operator may write its result over a storage that it reads, if nobody reads that afterwards."""
    return (
        node.target in IN_PLACE
        and source.op == "call_function"
        and val(source).dtype == val(node).dtype
        and val(source).numel() == val(node).numel()
    )


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


def last_uses(joint: JointGraph) -> dict[fx.Node, fx.Node | None]:
    """The node that reads each storage last; None for results, which nobody frees."""
    nodes = joint.nodes
    return {
        made: nodes[position] if position < len(nodes) else None
        for made, position in _last_uses(joint, nodes).items()
        if made.op == "call_function" and isinstance(made.meta["val"], torch.Tensor)
    }


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
