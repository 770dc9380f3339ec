"""Lower a joint graph to an ONNX model that runs in plain onnxruntime >= 1.19 in the order of the graph."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor

from quadloom_export.graph import JointGraph, batch_free_shape, val
from quadloom_export.lowering.onnx_arena import arena_table, bound_part
from quadloom_export.lowering.onnx_emitter import ONNX_TYPES, OnnxEmitter, value_info
from quadloom_export.lowering.onnx_layout import lay_out
from quadloom_export.lowering.onnx_operators import translate
from quadloom_export.lowering.weights import WeightEntry
from quadloom_runtime.contract.manifest import TensorSpec

OPSET = 21
IR_VERSION = 10
"""The newest that ONNX Runtime 1.19 reads."""
WEIGHTS_NAME = "weights.bin"


def weight_tensors(*graphs: JointGraph) -> dict[str, NDArray[np.generic]]:
    """Every frozen tensor that any of the graphs reads, by key."""
    read = {key: graph.frozen[key] for graph in graphs for key in graph.inputs_of("frozen")}
    return {key: _numpy(value) for key, value in read.items()}


@dataclass
class Translation:
    """A graph's ONNX parts.

    Attributes:
        nodes: in the wanted execution order, not yet laid out.
        values: name of the ONNX value that each node of the joint graph became.
    """

    nodes: list[NodeProto]
    inputs: list[ValueInfoProto]
    outputs: list[ValueInfoProto]
    initializers: list[TensorProto]
    values: dict[torch.fx.Node, str]

    def model(self) -> ModelProto:
        """Lay the file out for DEFAULT execution order."""
        graph = helper.make_graph(
            lay_out(self.nodes), "quadloom", self.inputs, self.outputs, initializer=self.initializers
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="quadloom")


@dataclass(frozen=True)
class OnnxFile:
    """What a file holds, and the bytes that one run takes in its arena."""

    content: bytes
    arena_bytes: int


def lower_to_onnx(joint: JointGraph, weights: Mapping[str, WeightEntry]) -> OnnxFile:
    """Translate node by node, lay the file out for DEFAULT execution order, and its tensors in one arena.

    Args:
        weights: where each frozen tensor lies in `WEIGHTS_NAME`, which must stand beside the model file.

    Raises:
        QuadloomError: an operator without a translation.
    """
    translation = translate_graph(joint, weights)
    table = arena_table(joint, translation.values, translation.nodes)
    parts = translation.model(), bound_part(joint, translation.values, table)
    return OnnxFile(b"".join(each.SerializeToString() for each in parts), table.size_bytes)


def translate_graph(joint: JointGraph, weights: Mapping[str, WeightEntry]) -> Translation:
    """Translate node by node.

    Args:
        weights: where each frozen tensor lies in `WEIGHTS_NAME`, which must stand beside the model file.

    Raises:
        QuadloomError: an operator without a translation.
    """
    out = OnnxEmitter()
    inputs, external = [], []
    for node in joint.inputs:
        key = node.meta["key"]
        out.bind(node, key)
        if node.meta["role"] == "frozen":
            external.append(_external(key, joint.frozen[key], weights[key]))
        else:
            inputs.append(value_info(key, node))
    for node in joint.nodes:
        translate(out, node)
    _name_results(out, joint)
    outputs = [value_info(name, node) for name, node in joint.results.items()]
    return Translation(out.nodes, inputs, outputs, [*external, *out.inline.values()], out.values)


def input_specs(joint: JointGraph) -> tuple[TensorSpec, ...]:
    """Inputs that a caller gives, in order."""
    given = [node for node in joint.inputs if node.meta["role"] != "frozen"]
    return tuple(_spec(node.meta["key"], node) for node in given)


def output_specs(joint: JointGraph) -> tuple[TensorSpec, ...]:
    """Outputs in order."""
    return tuple(_spec(name, node) for name, node in joint.results.items())


def _spec(name: str, node: torch.fx.Node) -> TensorSpec:
    dtype = str(val(node).dtype).removeprefix("torch.")
    shape = tuple(None if size == -1 else size for size in batch_free_shape(node))
    return TensorSpec(name=name, dtype=dtype, shape=shape)  # type: ignore[arg-type]


def _name_results(out: OnnxEmitter, joint: JointGraph) -> None:
    """Let the node that makes a result write it under its output name; an Identity would copy it."""
    made = {name for node in out.nodes for name in node.output}
    renamed: dict[str, str] = {}
    for output, node in joint.results.items():
        name = out.name_of(node)
        if name in made and name not in renamed:
            renamed[name] = output
        else:  # an input, a constant, or a value that is already another result
            out.node("Identity", [renamed.get(name, name)], outputs=[output])
    out.rename(renamed)


def _external(name: str, value: Tensor, entry: WeightEntry) -> TensorProto:
    tensor = TensorProto(name=name, data_type=ONNX_TYPES[value.dtype], dims=list(value.shape))
    tensor.data_location = TensorProto.EXTERNAL
    fields = {"location": WEIGHTS_NAME, "offset": entry.offset, "length": entry.size_bytes}
    for key, number in fields.items():
        tensor.external_data.add(key=key, value=str(number))
    return tensor


def _numpy(value: Tensor) -> NDArray[np.generic]:
    return value.detach().contiguous().numpy()
