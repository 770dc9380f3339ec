"""Let several query heads read one key or value head instead of a copy each.

Grouped-query attention (arXiv 2305.13245) repeats keys and values so that there is one per query head. The queries of a
group, one below the other, are a matrix of their own: multiplied with the one head that they share they give the same,
and the repeated tensors are never made, saved or summed over.
"""

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead, shape_of
from quadloom_export.passes.axes import Axis, summed_axes
from quadloom_export.passes.matmuls import BATCHED
from quadloom_export.passes.simplify import apply_rules, drop_no_op, merge_equal_nodes, merge_views, view_of

aten = torch.ops.aten


def share_heads(joint: JointGraph) -> JointGraph:
    """An equal graph in which no batched product reads a repeated operand. Runs on fused products."""
    result = joint.copy()
    apply_rules(result.graph, [drop_no_op, merge_views, read_unrepeated, sum_within_product])
    merge_equal_nodes(result.graph)
    remove_dead(result.graph)
    return result


def read_unrepeated(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``a_i @ b`` for every i of a group is one product of all rows of the group."""
    if node.target != BATCHED:
        return None
    a, b, transpose_a, transpose_b, alpha = node.args
    assert isinstance(a, fx.Node)
    base = _unrepeated(b)
    if transpose_a or base is None:
        return None
    repeats = shape_of(base)[-3]
    source = base.args[0]
    shared = emit(graph, aten.reshape.default, (source, [-1, *shape_of(base)[-2:]]), like=node)
    rows = emit(graph, aten.reshape.default, (a, [-1, repeats * shape_of(a)[1], shape_of(a)[2]]), like=node)
    product = emit(graph, BATCHED, (rows, shared, False, transpose_b, alpha), like=node)
    return view_of(graph, product, like=node)


def sum_within_product(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The sum over a group of ``a_i^T @ b_i`` is one product with as many more rows to contract."""
    if node.target != aten.sum.dim_IntList:
        return None
    view = node.args[0]
    if not isinstance(view, fx.Node) or view.target != aten.reshape.default or len(view.users) > 1:
        return None
    product, shape = view.args[0], shape_of(view)
    if not isinstance(product, fx.Node) or product.target != BATCHED or len(product.users) > 1:
        return None
    axis = len(shape) - 3
    if summed_axes(node) != [(Axis(0, axis),)] or shape[-2:] != shape_of(product)[-2:]:
        return None
    a, b, transpose_a, transpose_b, alpha = product.args
    if not transpose_a or transpose_b:
        return None
    longer = []
    for each in (a, b):
        assert isinstance(each, fx.Node)
        rows, columns = shape_of(each)[1:]
        longer.append(emit(graph, aten.reshape.default, (each, [-1, shape[axis] * rows, columns]), like=node))
    total = emit(graph, BATCHED, (*longer, True, False, alpha), like=node)
    return view_of(graph, total, like=node)


def _unrepeated(operand: object) -> fx.Node | None:
    """The expand behind an operand if it repeats each matrix along the axis in front of the last two."""
    if not isinstance(operand, fx.Node) or operand.target != aten.reshape.default:
        return None
    spread = operand.args[0]
    if not isinstance(spread, fx.Node) or spread.target != aten.expand.default:
        return None
    assert isinstance(spread.args[0], fx.Node)
    before, after = shape_of(spread.args[0]), shape_of(spread)
    axis = len(after) - 3
    repeated = [index for index, (a, b) in enumerate(zip(before, after, strict=False)) if a != b]
    same_rank = len(before) == len(after)
    return spread if same_rank and repeated == [axis] and after[-2:] == shape_of(operand)[-2:] else None
