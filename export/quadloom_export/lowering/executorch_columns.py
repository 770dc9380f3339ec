"""Look for the smallest and the largest value of a group where groups are columns, not rows.

A kernel that goes along a row takes one value after the other; one that goes down all columns at once takes as many as
a register holds. Turning the groups and going down the columns takes less than half of the time.
"""

import torch
from torch import fx

from quadloom_export.graph import JointGraph, emit, remove_dead
from quadloom_export.semantic_ops import SMALLEST_SCALE, step_share

aten = torch.ops.aten
quadloom = torch.ops.quadloom


def with_groups_as_columns(joint: JointGraph) -> JointGraph:
    """An equal graph whose `row_scale` and `row_minimum` are extremes of columns; each tensor is turned once."""
    result = joint.copy()
    for scale in [node for node in result.nodes if node.target == quadloom.row_scale.default]:
        rows, minimum, *_ = scale.args
        # The largest value comes first: what looks for the smallest may then write over the columns.
        with result.graph.inserting_before(minimum if isinstance(minimum, fx.Node) else scale):
            columns = emit(result.graph, aten.permute.default, (rows, [1, 0]), like=scale)
            largest = emit(result.graph, aten.amax.default, (columns, [0]), like=scale)
        if isinstance(minimum, fx.Node):
            _replace_minimum(result.graph, minimum, columns)
        _replace_scale(result.graph, scale, largest)
    remove_dead(result.graph)
    return result


def _replace_minimum(graph: fx.Graph, minimum: fx.Node, columns: fx.Node) -> None:
    with graph.inserting_before(minimum):
        smallest = emit(graph, aten.amin.default, (columns, [0]), like=minimum)
        minimum.replace_all_uses_with(emit(graph, aten.clamp.default, (smallest, None, 0.0), like=minimum))


def _replace_scale(graph: fx.Graph, scale: fx.Node, largest: fx.Node) -> None:
    _, minimum, lower_bound, levels = scale.args
    with graph.inserting_before(scale):
        bounded = emit(graph, aten.clamp.default, (largest, SMALLEST_SCALE), like=scale)
        lowest = lower_bound if minimum is None else minimum
        spread = emit(graph, aten.sub.Tensor, (bounded, lowest), like=scale)
        scale.replace_all_uses_with(emit(graph, aten.mul.Tensor, (spread, step_share(levels)), like=scale))  # type: ignore[arg-type]
