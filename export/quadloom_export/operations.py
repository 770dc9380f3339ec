"""Count the arithmetic of a graph, for the planner's cost model."""

import torch

from quadloom_export.graph import JointGraph, shape_of, val

quadloom = torch.ops.quadloom


def multiply_adds(joint: JointGraph, *, phase: str) -> int:
    """Multiply-adds of the matrix products in one phase of a step, at the family's batch size."""
    total = 0
    for node in joint.nodes:
        if node.meta["phase"] != phase:
            continue
        if node.target == quadloom.gemm.default:
            total += val(node).numel() * shape_of(node.args[0])[0 if node.args[3] else 1]  # type: ignore[arg-type]
        elif node.target == quadloom.batched_matmul.default:
            total += val(node).numel() * shape_of(node.args[0])[1 if node.args[2] else 2]  # type: ignore[arg-type]
    return total
