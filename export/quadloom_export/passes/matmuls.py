"""Turn ATen's matrix products into `gemm` and `batched_matmul`, which take transposes, a factor and a summand.

A transpose in front of a product, a factor behind it and a sum with it then cost no pass over memory.
"""

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead, shape_of, val
from quadloom_export.passes.simplify import (
    apply_rules,
    drop_no_op,
    merge_equal_nodes,
    merge_permutes,
    merge_views,
    same_shape,
    view_of,
)

aten = torch.ops.aten
quadloom = torch.ops.quadloom

GEMM = quadloom.gemm.default
BATCHED = quadloom.batched_matmul.default


def fuse_matmuls(joint: JointGraph) -> JointGraph:
    """An equal graph without ATen matrix products and with far fewer transposes, factors and sums."""
    result = joint.copy()
    tidy = [drop_no_op, merge_views, merge_permutes]
    apply_rules(result.graph, [*tidy, as_fused_product, transpose_behind_view])
    merge_equal_nodes(result.graph)
    apply_rules(result.graph, [*tidy, absorb_operand_transpose, absorb_result_transpose, transpose_behind_view])
    merge_equal_nodes(result.graph)
    apply_rules(result.graph, [*tidy, absorb_result_factor, absorb_operand_factor])
    apply_rules(result.graph, [*tidy, absorb_sum])
    merge_equal_nodes(result.graph)
    remove_dead(result.graph)
    return result


def as_fused_product(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``mm``, ``addmm`` and ``bmm`` in their fused spelling."""
    if node.target == aten.mm.default:
        return emit(graph, GEMM, (*node.args, None, False, False, 1.0), like=node)
    if node.target == aten.bmm.default:
        return emit(graph, BATCHED, (*node.args, False, False, 1.0), like=node)
    if node.target == aten.addmm.default and not node.kwargs:
        bias, a, b = node.args
        return emit(graph, GEMM, (a, b, bias, False, False, 1.0), like=node)
    return None


def transpose_behind_view(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``view(permute(x))`` that merges leading dimensions: move a swap of the last two behind the view.

    Applied when the permute moves x's last dimension to the second-to-last place: without the swap it copies whole
    rows, and the swap itself vanishes into the product that reads it.
    """
    source = node.args[0] if node.args else None
    if node.target != aten.reshape.default or not isinstance(source, fx.Node) or source.target != aten.permute.default:
        return None
    order = list(source.args[1])  # type: ignore[arg-type]
    shape = shape_of(node)
    if len(order) < 3 or len(shape) != 3 or order[-2] != len(order) - 1 or shape[-2:] != shape_of(source)[-2:]:
        return None
    swapped = [*order[:-2], order[-1], order[-2]]
    inner = emit(graph, aten.permute.default, (source.args[0], swapped), like=node)
    open_shape = list(node.args[1])  # type: ignore[arg-type]
    merged = emit(graph, aten.reshape.default, (inner, [open_shape[0], open_shape[2], open_shape[1]]), like=node)
    return emit(graph, aten.permute.default, (merged, [0, 2, 1]), like=node)


def _swaps_last_two(node: object) -> bool:
    if not isinstance(node, fx.Node) or node.target != aten.permute.default:
        return False
    order = list(node.args[1])  # type: ignore[arg-type]
    return order in ([1, 0], [0, 2, 1])


def absorb_operand_transpose(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A product of a transposed operand is a product with the transpose flag set."""
    if node.target not in (GEMM, BATCHED):
        return None
    arguments = list(node.args)
    first_flag = 3 if node.target == GEMM else 2
    for operand in (0, 1):
        source = arguments[operand]
        if _swaps_last_two(source):
            arguments[operand] = source.args[0]  # type: ignore[union-attr]
            arguments[first_flag + operand] = not arguments[first_flag + operand]
            return emit(graph, node.target, tuple(arguments), like=node)
    return None


def absorb_result_transpose(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The transpose of ``a @ b`` is ``b^T @ a^T``; also behind a view that only splits the leading dimension."""
    product = node.args[0] if node.args else None
    if node.target != aten.permute.default or not isinstance(product, fx.Node):
        return None
    order = list(node.args[1])  # type: ignore[arg-type]
    if product.target == GEMM and order == [1, 0] and product.args[2] is None and len(product.users) == 1:
        a, b, bias, flag_a, flag_b, alpha = product.args
        return emit(graph, GEMM, (b, a, bias, not flag_b, not flag_a, alpha), like=product)
    view, last = product, len(order) - 1
    if view.target != aten.reshape.default or order[-1] != last - 1 or len(view.users) != 1:
        return None
    product = view.args[0]
    if not isinstance(product, fx.Node) or product.target != BATCHED or len(product.users) != 1:
        return None
    if shape_of(view)[-2:] != shape_of(product)[-2:]:
        return None
    a, b, flag_a, flag_b, alpha = product.args
    turned = emit(graph, BATCHED, (b, a, not flag_b, not flag_a, alpha), like=product)
    shape = list(view.args[1])  # type: ignore[arg-type]
    split = emit(graph, aten.reshape.default, (turned, [*shape[:-2], shape[-1], shape[-2]]), like=view)
    swap = {last: last - 1, last - 1: last}
    return emit(graph, aten.permute.default, (split, [swap.get(i, i) for i in order]), like=node)


def _product_behind(node: object) -> fx.Node | None:
    """The product that `node` is a view of, if nothing else reads it on the way."""
    while isinstance(node, fx.Node) and len(node.users) == 1 and node.target == aten.reshape.default:
        node = node.args[0]
    if isinstance(node, fx.Node) and node.target in (GEMM, BATCHED) and len(node.users) == 1:
        return node
    return None


def absorb_result_factor(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``c * (a @ b)`` is a product with the factor c."""
    if node.target != aten.mul.Tensor or not isinstance(node.args[1], int | float):
        return None
    product = _product_behind(node.args[0])
    if product is None or (product.target == GEMM and product.args[2] is not None):
        return None
    scaled = (*product.args[:-1], product.args[-1] * node.args[1])  # type: ignore[operator]
    return view_of(graph, emit(graph, product.target, scaled, like=product), like=node)


def absorb_operand_factor(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``(c * a) @ b`` is ``a @ b`` with the factor c, when products are all that reads ``c * a``."""
    if node.target not in (GEMM, BATCHED):
        return None
    for position in (0, 1):
        operand = node.args[position]
        factor = operand.args[0] if isinstance(operand, fx.Node) and operand.target == aten.reshape.default else operand
        if not isinstance(factor, fx.Node) or factor.target != aten.mul.Tensor:
            continue
        if not isinstance(factor.args[1], int | float) or not _read_by_products_only(factor):
            continue
        arguments = list(node.args)
        assert isinstance(operand, fx.Node)
        assert isinstance(factor.args[0], fx.Node)
        arguments[position] = view_of(graph, factor.args[0], like=operand)
        arguments[-1] = arguments[-1] * factor.args[1]  # type: ignore[operator]
        return emit(graph, node.target, tuple(arguments), like=node)
    return None


def _read_by_products_only(node: fx.Node) -> bool:
    def fine(user: fx.Node, read: fx.Node) -> bool:
        if user.target == aten.reshape.default:
            return _read_by_products_only(user)
        return user.target in (GEMM, BATCHED) and read in user.args[:2] and read not in user.args[2:]

    return all(fine(user, node) for user in node.users)


def absorb_sum(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """``r + a @ b`` is a gemm that starts from r."""
    if node.target != aten.add.Tensor or node.kwargs:
        return None
    a, b = node.args
    if not isinstance(a, fx.Node) or not isinstance(b, fx.Node) or not same_shape(a, b) or not same_shape(a, node):
        return None
    order = {each: position for position, each in enumerate(graph.nodes)}
    found = [(product, rest) for side, rest in ((a, b), (b, a)) if (product := _product_behind(side)) is not None]
    found = [pair for pair in found if pair[0].target == GEMM and pair[0].args[2] is None]
    if not found or val(node).dtype != torch.float32:
        return None
    product, rest = max(found, key=lambda pair: order[pair[0]])
    start = view_of(graph, rest, like=product)
    summed = emit(graph, GEMM, (*product.args[:2], start, *product.args[3:]), like=node)
    return view_of(graph, summed, like=node)
