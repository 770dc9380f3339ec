"""Count the arithmetic of a graph, for the planner's cost model."""

import torch
from torch import fx

from quadloom_export import semantic_ops  # noqa: F401 - registers the operators used below
from quadloom_export.graph import JointGraph, shape_of, val

quadloom = torch.ops.quadloom


MATRIX_PRODUCTS = (quadloom.gemm.default, quadloom.batched_matmul.default)


def multiply_adds(joint: JointGraph, *, phase: str) -> int:
    """Multiply-adds of the matrix products in one phase of a step, at the family's batch size."""
    return sum(node_multiply_adds(node) for node in joint.nodes if node.meta["phase"] == phase)


def node_multiply_adds(node: fx.Node) -> int:
    """Multiply-adds of one node, 0 for what is no matrix product."""
    if node.target == quadloom.gemm.default:
        return val(node).numel() * shape_of(node.args[0])[0 if node.args[3] else 1]  # type: ignore[arg-type]
    if node.target == quadloom.batched_matmul.default:
        return val(node).numel() * shape_of(node.args[0])[1 if node.args[2] else 2]  # type: ignore[arg-type]
    return 0
