"""Gives a graph that was written by hand what the engine asks of every graph: its tensors' places."""

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto, helper

from quadloom_export.lowering.onnx_layout import default_execution_order
from quadloom_runtime.contract.manifest import TensorSpec
from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    METADATA_KEY,
    ArenaTable,
    PlacedTensor,
    order_digest,
)


def bound(model: ModelProto, placed: Sequence[TensorSpec], *, batch_size: int) -> bytes:
    """The file of a graph of fixed shapes, with `placed` side by side in an arena."""
    nodes = model.graph.node
    for index, node in enumerate(nodes):
        node.name = f"{node.op_type}_{index}"
    tensors, end = [], 0
    for each in placed:
        shape = tuple(size for size in each.shape if size is not None)
        tensor = PlacedTensor(name=each.name, dtype=each.dtype, shape=shape, offset=end)
        tensors.append(tensor)
        end += -(-tensor.size_bytes(batch_size) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    table = ArenaTable(
        batch_size=batch_size,
        size_bytes=end,
        order_sha256=order_digest(nodes[index].name for index in default_execution_order(list(nodes))),
        tensors=tuple(tensors),
    )
    results = {each.name for each in model.graph.output}
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    extra = [
        helper.make_tensor_value_info(each.name, types[each.dtype], each.shape)
        for each in tensors
        if each.name not in results
    ]
    end_of_file = ModelProto(
        graph=GraphProto(output=extra),
        metadata_props=[StringStringEntryProto(key=METADATA_KEY, value=table.to_json())],
    )
    return model.SerializeToString() + end_of_file.SerializeToString()
