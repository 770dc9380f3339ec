"""Remove the batch size from every argument of a recorded graph.

Two recordings of the same function at different batch sizes are equal but for the numbers that depend on the batch.
Each such number is rewritten so that the graph holds for any batch size.
"""

import hashlib
from typing import Any

import torch
from torch import fx

from quadloom_export import semantic_ops  # noqa: F401 - registers the operators used below
from quadloom_export.graph import remove_dead
from quadloom_runtime.errors import QuadloomError

aten = torch.ops.aten
quadloom = torch.ops.quadloom

FILLS = {aten.full.default, aten.full_like.default, aten.empty_like.default}
CONSTANT_KEY = "constant."
TRACED_BATCH_SIZES = (3, 5)
"""Batch sizes of the two recordings: neither is 1, which ATen treats specially."""
BATCH_STEP = TRACED_BATCH_SIZES[1] - TRACED_BATCH_SIZES[0]


def constant_key(value: torch.Tensor) -> str:
    """Name of a constant: the same in every graph that holds the same value."""
    content = f"{value.dtype}{list(value.shape)}".encode() + value.contiguous().numpy().tobytes()
    return CONSTANT_KEY + hashlib.sha256(content).hexdigest()[:16]


def make_batch_free(small: fx.Graph, large: fx.Graph) -> fx.Graph:
    """A graph equal to `small` and `large` at their batch sizes.

    Constants among the attributes become placeholders with ``meta["constant"]``, frozen inputs like any other.

    Raises:
        QuadloomError: an operator depends on the batch size in a way that cannot be removed.
    """
    small_nodes, large_nodes = list(small.nodes), list(large.nodes)
    if [str(node.target) for node in small_nodes] != [str(node.target) for node in large_nodes]:
        raise QuadloomError(
            "the model computes differently for different batch sizes, so no single graph serves it",
            remedy="use a model without batch-dependent control flow",
        )
    constant_values = _constants_of_both(small_nodes, large_nodes)
    graph = fx.Graph()
    rebuilt: dict[fx.Node, fx.Node] = {}
    _copy_inputs(graph, small_nodes, rebuilt)
    reference = _first_batch_input(small_nodes, large_nodes, rebuilt)
    bound_nodes: list[fx.Node] = []
    for a, b in zip(small_nodes, large_nodes, strict=True):
        if a in rebuilt:
            continue
        if a.op == "output":
            graph.output(tuple(rebuilt[node] for node in torch.utils._pytree.tree_leaves(a.args[0])))
            continue
        rebuilt[a] = _rebuild(graph, a, b, rebuilt, reference, constant_values, bound_nodes)
        rebuilt[a].meta = {"phase": a.meta["phase"], "layer": a.meta["layer"]}
    remove_dead(graph)
    for node in bound_nodes:
        if node in graph.nodes:
            raise _batch_bound_error(node)
    return graph


def _batch_bound_error(node: fx.Node) -> QuadloomError:
    return QuadloomError(
        f"operator {node.target} depends on the batch size in a way that cannot be removed ({node.format_node()})",
        remedy="report the model; its forward uses the batch size as a number",
    )


def _copy_inputs(graph: fx.Graph, nodes: list[fx.Node], rebuilt: dict[fx.Node, fx.Node]) -> None:
    for node in nodes:
        if node.op not in ("placeholder", "get_attr"):
            continue
        rebuilt[node] = copy = graph.placeholder(node.name)
        copy.meta = {"phase": "forward", "layer": "embeddings"}
        if node.op == "get_attr":
            value = node.meta["constant"]
            copy.meta |= {"role": "frozen", "key": constant_key(value), "constant": value}


def _first_batch_input(small: list[fx.Node], large: list[fx.Node], rebuilt: dict[fx.Node, fx.Node]) -> fx.Node:
    for a, b in zip(small, large, strict=True):
        if a.op == "placeholder" and a.meta["val"].shape != b.meta["val"].shape:
            return rebuilt[a]
    raise AssertionError("no input has a batch dimension")


def _constants_of_both(small: list[fx.Node], large: list[fx.Node]) -> dict[fx.Node, torch.Tensor]:
    """Values of `small`'s nodes that depend on no input, where `index` needs them."""
    values: dict[fx.Node, torch.Tensor] = {}
    for a, _ in zip(small, large, strict=True):
        if a.op == "call_function" and all(node in values for node in a.all_input_nodes) and _is_index_arithmetic(a):
            values[a] = a.target(*fx.node.map_arg(a.args, values.__getitem__), **a.kwargs)  # type: ignore[operator]
    return values


def _is_index_arithmetic(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and value.numel() <= 1 << 20


def _rebuild(
    graph: fx.Graph,
    a: fx.Node,
    b: fx.Node,
    rebuilt: dict[fx.Node, fx.Node],
    reference: fx.Node,
    constants: dict[fx.Node, torch.Tensor],
    bound_nodes: list[fx.Node],
) -> fx.Node:
    def argument(value: Any) -> Any:
        return fx.node.map_arg(value, rebuilt.__getitem__)

    if a.target == aten.index.Tensor and (outer := _outer_index_shape(a, b, constants)) is not None:
        return graph.call_function(aten.reshape.default, (argument(a.args[0]), outer))
    varies = _literals(a) != _literals(b)
    if a.target in (aten.view.default, aten._unsafe_view.default, aten.reshape.default):
        return graph.call_function(aten.reshape.default, (argument(a.args[0]), _open_shape(a, b)))
    if a.target in FILLS and a.meta["val"].shape != b.meta["val"].shape:
        return _fill(graph, a, b, reference)
    if not varies:
        return graph.call_function(a.target, argument(a.args), argument(a.kwargs))  # type: ignore[arg-type]
    if a.target == aten.expand.default:
        return _expand(graph, a, b, rebuilt, reference)
    if a.target == aten.repeat.default:
        axis = next(i for i, (x, y) in enumerate(zip(a.args[1], b.args[1], strict=True)) if x != y)  # type: ignore[arg-type]
        growth = (b.args[1][axis] - a.args[1][axis]) // BATCH_STEP  # type: ignore[index,operator]
        repeats = [growth if i == axis else n for i, n in enumerate(a.args[1])]  # type: ignore[arg-type]
        return graph.call_function(quadloom.batch_tile.default, (argument(a.args[0]), reference, repeats, axis))
    if a.target == aten.slice.Tensor and a.args[1:3] == b.args[1:3] and _reaches_end(a) and _reaches_end(b):
        return graph.call_function(a.target, (*argument(a.args[:3]), 2**62))
    if a in constants:  # row numbers: only `index` reads them, and that becomes a view
        bound = graph.call_function(a.target, argument(a.args), argument(a.kwargs))  # type: ignore[arg-type]
        bound_nodes.append(bound)
        return bound
    raise _batch_bound_error(a)


def _literals(node: fx.Node) -> tuple[Any, ...]:
    leaves = torch.utils._pytree.tree_leaves((node.args, node.kwargs))
    return tuple(leaf for leaf in leaves if not isinstance(leaf, fx.Node))


def _open_shape(a: fx.Node, b: fx.Node) -> list[int]:
    shape = [-1 if x != y else x for x, y in zip(a.meta["val"].shape, b.meta["val"].shape, strict=True)]
    if shape.count(-1) > 1:
        raise QuadloomError(
            f"a view has more than one batch-dependent dimension ({a.format_node()})",
            remedy="report the model; its forward mixes the batch into two dimensions",
        )
    return shape


def _reaches_end(node: fx.Node) -> bool:
    """Whether a slice leaves nothing out at its end."""
    source, axis, _, end = node.args[:4]
    assert isinstance(source, fx.Node)
    return end >= source.meta["val"].shape[axis]  # type: ignore[no-any-return]


def _batch_growth(a: fx.Node, b: fx.Node) -> tuple[int, int]:
    """The dimension that grows with the batch, and by how many entries per row."""
    small, large = a.meta["val"].shape, b.meta["val"].shape
    axis = next(i for i, (x, y) in enumerate(zip(small, large, strict=True)) if x != y)
    return axis, (large[axis] - small[axis]) // BATCH_STEP


def _fill(graph: fx.Graph, a: fx.Node, b: fx.Node, reference: fx.Node) -> fx.Node:
    """A constant of the batch's size, in the dtype of `a`."""
    axis, factor = _batch_growth(a, b)
    shape = [factor if i == axis else size for i, size in enumerate(a.meta["val"].shape)]
    number = float(a.args[1]) if len(a.args) > 1 else 0.0  # type: ignore[arg-type]
    filled = graph.call_function(quadloom.batch_full.default, (reference, shape, axis, number))
    dtype = a.meta["val"].dtype
    if dtype == torch.float32:
        return filled
    filled.meta = {"phase": a.meta["phase"], "layer": a.meta["layer"]}
    return graph.call_function(aten._to_copy.default, (filled,), {"dtype": dtype})


def _expand(graph: fx.Graph, a: fx.Node, b: fx.Node, rebuilt: dict[fx.Node, fx.Node], reference: fx.Node) -> fx.Node:
    """Keep dimensions that already have the batch's size, tile those that grow from 1."""
    source, small, large = a.args[0], a.meta["val"].shape, b.meta["val"].shape
    assert isinstance(source, fx.Node)
    have = [1] * (len(small) - source.meta["val"].dim()) + list(source.meta["val"].shape)
    growing = [i for i, (x, y) in enumerate(zip(small, large, strict=True)) if x != y]
    tiled = [i for i in growing if have[i] == 1]
    expanded = [1 if i in tiled else -1 if i in growing else size for i, size in enumerate(small)]
    node = graph.call_function(aten.expand.default, (rebuilt[source], expanded))
    for axis in tiled:
        node.meta = {"phase": a.meta["phase"], "layer": a.meta["layer"]}
        repeats = [_batch_growth(a, b)[1] if i == axis else 1 for i in range(len(small))]
        node = graph.call_function(quadloom.batch_tile.default, (node, reference, repeats, axis))
    return node


def _outer_index_shape(a: fx.Node, b: fx.Node, constants: dict[fx.Node, torch.Tensor]) -> list[int] | None:
    """Shape if ``x[i, j, ...]`` merely spreads the dimensions of x over new ones, as attention-mask code does.

    That holds when index k is 0, 1, 2 ... along one dimension of its own, and those dimensions ascend.
    """
    source, indices = a.args[0], a.args[1]
    assert isinstance(source, fx.Node)
    if len(indices) != source.meta["val"].dim():  # type: ignore[arg-type]
        return None
    last = -1
    for axis, index in enumerate(indices):  # type: ignore[arg-type]
        if index not in constants:
            return None
        value = constants[index]
        long = [i for i, size in enumerate(value.shape) if size > 1]
        if len(long) > 1 or value.numel() != source.meta["val"].shape[axis] or (long and long[0] <= last):
            return None
        if not torch.equal(value.flatten(), torch.arange(value.numel())):
            return None
        last = long[0] - value.dim() + len(a.meta["val"].shape) if long else last
    return _open_shape(a, b)
