"""Store linear weights as INT8 and make a float copy right before each use.

A copy is made per use, forward and backward each their own, so it lives as long as the product that reads it. The
integers are a matrix of (outputs, inputs) with a scale per output; whether a product transposes it is the product's
business, and the same integers serve both.
"""

from collections.abc import Mapping

import torch
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.model import Int8Weight

quadloom = torch.ops.quadloom

SCALE_SUFFIX = "_scale"


def store_int8_weights(joint: JointGraph, weights: Mapping[str, Int8Weight]) -> JointGraph:
    """A graph that reads integers and scales where `joint` reads the float weights that they stand for.

    Args:
        weights: by key of the frozen input; the integers keep that key.
    """
    frozen = dict(joint.frozen)
    result = joint.copy(frozen=frozen)
    placeholders = result.inputs_of("frozen")
    for key in [each for each in placeholders if each in weights]:
        _store(result.graph, placeholders[key], weights[key])
        frozen |= {key: weights[key].values, key + SCALE_SUFFIX: weights[key].scale}
    return result


def delay_weight_copies(joint: JointGraph) -> JointGraph:
    """The same graph with every float copy right before the product that reads it, whatever other passes put there."""
    result = joint.copy()
    position = {node: index for index, node in enumerate(result.nodes)}
    for copy in [node for node in position if is_weight_copy(node)]:
        min(copy.users, key=position.__getitem__).prepend(copy)
    return result


def is_weight_copy(node: fx.Node) -> bool:
    """Whether a node makes the float copy of a stored weight."""
    return node.target == quadloom.dequantize.default and all(each.op == "placeholder" for each in node.all_input_nodes)


def _store(graph: fx.Graph, weight: fx.Node, stored: Int8Weight) -> None:
    readers = list(weight.users)
    with graph.inserting_after(weight):
        scale = graph.placeholder(f"{weight.name}{SCALE_SUFFIX}")
    scale.meta = {**weight.meta, "key": weight.meta["key"] + SCALE_SUFFIX}
    for name, mode in SHAPE_MODES.items():
        weight.meta[name], scale.meta[name] = mode.from_tensor(stored.values), mode.from_tensor(stored.scale)
    for reader in readers:
        with graph.inserting_before(reader):
            copy = emit(graph, quadloom.dequantize.default, (weight, scale, None), like=reader)
            reader.replace_input_with(weight, copy)
