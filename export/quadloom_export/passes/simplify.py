"""Remove what a recording leaves behind: no-ops, chains of views, needless broadcasts, constants, repeated work."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from quadloom_export.graph import (
    SHAPE_MODES,
    JointGraph,
    batch_free_shape,
    emit,
    evaluate,
    remove_dead,
    shape_of,
    val,
)
from quadloom_export.passes.batch_free import CONSTANT_KEY, constant_key
from quadloom_export.passes.elementwise import (
    join_slice_gradients,
    number_before_spread,
    number_to_small_operand,
    plain_number,
    plain_power,
)

aten = torch.ops.aten
quadloom = torch.ops.quadloom

LARGEST_CONSTANT = 1 << 16
"""Elements that a folded constant may have: beyond, computing it again costs less than shipping it."""

NO_OPS = {aten.alias.default, aten.clone.default, aten.detach.default, aten.lift_fresh_copy.default, aten.lift.default}
VIEWS = {aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dims, aten.squeeze.dim}
BROADCASTING = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.where.self,
    aten.bitwise_and.Tensor,
    aten.eq.Tensor,
    aten.maximum.default,
    aten.minimum.default,
}
Rule = Callable[[fx.Graph, fx.Node], fx.Node | None]


def simplify(joint: JointGraph) -> JointGraph:
    """An equal graph with the leftovers of tracing removed."""
    result = joint.copy()
    frozen: dict[str, Tensor] = dict(result.frozen)
    _fold_constants(result.graph, frozen)
    apply_rules(
        result.graph,
        [
            *(drop_no_op, out_of_place, as_view, merge_views, merge_permutes, drop_broadcast, use_scalar(frozen)),
            *(plain_number, plain_power, number_before_spread, number_to_small_operand, join_slice_gradients),
        ],
    )
    merge_equal_nodes(result.graph)
    remove_dead(result.graph)
    return replace(result, frozen=frozen)


def apply_rules(graph: fx.Graph, rules: list[Rule]) -> None:
    """Rewrite nodes until no rule finds anything more."""
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            if node.op != "call_function" or not node.users:
                continue
            for rule in rules:
                with graph.inserting_before(node):
                    replacement = rule(graph, node)
                if replacement is not None and replacement is not node:
                    node.replace_all_uses_with(replacement)
                    changed = True
                    break
        remove_dead(graph)


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Equal shape at every batch size, and equal dtype."""
    x, y = val(a), val(b)
    return x.shape == y.shape and x.dtype == y.dtype and a.meta["twin"].shape == b.meta["twin"].shape


def view_of(graph: fx.Graph, source: fx.Node, *, like: fx.Node) -> fx.Node:
    """`source` seen in the shape of `like`."""
    return emit(graph, aten.reshape.default, (source, batch_free_shape(like)), like=like)


def drop_no_op(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Copies, and views, expands, casts and permutes that change nothing."""
    del graph
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(source.meta.get("val"), Tensor):
        return None
    if node.target in NO_OPS:
        return source
    if node.target in (aten.reshape.default, aten.expand.default, aten._to_copy.default) and same_shape(node, source):
        return source
    if node.target == aten.permute.default and list(node.args[1]) == sorted(node.args[1]):  # type: ignore[arg-type]
        return source
    return None


def out_of_place(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The recording names the result of an in-place operator wherever it is read, so a plain operator does the same."""
    if node.target == aten.add_.Tensor:
        return emit(graph, aten.add.Tensor, node.args, like=node, kwargs=dict(node.kwargs))
    return None


def as_view(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """One spelling for everything that only changes the shape."""
    if node.target in VIEWS:
        assert isinstance(node.args[0], fx.Node)
        return view_of(graph, node.args[0], like=node)
    return None


def merge_views(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``view(view(x))`` is one view."""
    source = node.args[0] if node.args else None
    if node.target == aten.reshape.default and isinstance(source, fx.Node) and source.target == aten.reshape.default:
        return emit(graph, aten.reshape.default, (source.args[0], node.args[1]), like=node)
    return None


def merge_permutes(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``permute(permute(x))`` is one permute."""
    source = node.args[0] if node.args else None
    if node.target != aten.permute.default or not isinstance(source, fx.Node) or source.target != node.target:
        return None
    inner, outer = source.args[1], node.args[1]
    return emit(graph, aten.permute.default, (source.args[0], [inner[i] for i in outer]), like=node)  # type: ignore[index,union-attr]


def drop_broadcast(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Elementwise operators broadcast by themselves: take the operand as it was before it was spread or filled."""
    if node.target not in BROADCASTING:
        return None
    for position, operand in enumerate(node.args):
        if not isinstance(operand, fx.Node) or operand.op != "call_function":
            continue
        if operand.target in (aten.expand.default, quadloom.batch_tile.default):
            source = operand.args[0]
        elif operand.target in (aten.full.default, quadloom.batch_full.default) and shape_of(operand):
            fill = operand.args[1 if operand.target == aten.full.default else 3]
            source = emit(graph, aten.full.default, ([], fill), like=node, kwargs={"dtype": val(operand).dtype})
        else:
            continue
        arguments = (*node.args[:position], source, *node.args[position + 1 :])
        lean = emit(graph, node.target, arguments, like=node, kwargs=dict(node.kwargs))
        if same_shape(lean, node):
            return lean
        graph.erase_node(lean)
    return None


def use_scalar(frozen: dict[str, Tensor]) -> Rule:
    """A rule: multiplying by or dividing by a constant of one element takes a number instead of a tensor."""

    def rule(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
        if node.target not in (aten.mul.Tensor, aten.div.Tensor) or node.kwargs:
            return None
        a, b = node.args
        if isinstance(a, fx.Node) and isinstance(b, int | float) and node.target == aten.div.Tensor:
            return emit(graph, aten.mul.Tensor, (a, 1.0 / b), like=node)
        if not isinstance(b, fx.Node) or b.meta.get("role") != "frozen" or val(b).dim() != 0:
            return None
        number = float(frozen[b.meta["key"]])
        number = 1.0 / number if node.target == aten.div.Tensor else number
        lean = emit(graph, aten.mul.Tensor, (a, number), like=node)
        return lean if same_shape(lean, node) else None

    return rule


def _is_constant(node: fx.Node) -> bool:
    """A frozen input that is a folded constant or a table of the model: not a weight."""
    if node.op != "placeholder" or node.meta["role"] != "frozen":
        return False
    return str(node.meta["key"]).startswith(CONSTANT_KEY) or node.meta.get("table", False)


def _fold_constants(graph: fx.Graph, frozen: dict[str, Tensor]) -> None:
    """Compute once, now, whatever depends on constants alone; the value becomes a frozen input."""
    first = next(iter(graph.nodes))
    values: dict[fx.Node, Any] = {n: frozen[n.meta["key"]] for n in graph.nodes if _is_constant(n)}
    constants: dict[str, fx.Node] = {n.meta["key"]: n for n in values}
    for node in list(graph.nodes):
        if node.op != "call_function" or not isinstance(node.meta["val"], Tensor):
            continue
        if any(each not in values for each in node.all_input_nodes) or val(node).numel() > LARGEST_CONSTANT:
            continue
        value = evaluate(node.target, node.args, node.kwargs, values.__getitem__).detach().clone()
        key = constant_key(value)
        if key not in constants:
            with graph.inserting_before(first):
                constants[key] = constant = graph.placeholder(f"folded_{node.name}")
            constant.meta = {"phase": "forward", "layer": "embeddings", "role": "frozen", "key": key}
            constant.meta |= {name: mode.from_tensor(value) for name, mode in SHAPE_MODES.items()}
        frozen[key] = value
        values[constants[key]] = values[node] = value
        node.replace_all_uses_with(constants[key])
    remove_dead(graph)


def merge_equal_nodes(graph: fx.Graph) -> None:
    """Compute equal things once, within a phase: a merge across phases would lengthen the stash."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        key = (node.target, node.meta["phase"], _hashable(node.args), _hashable(sorted(node.kwargs.items())))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(each) for each in value)
    return (type(value).__name__, value)
