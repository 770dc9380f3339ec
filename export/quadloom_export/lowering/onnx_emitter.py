"""Collects ONNX nodes, initializers and names while a graph is translated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import fx

from quadloom_export.graph import batch_free_shape, val

ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}
NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


class OnnxEmitter:
    """Builds one graph; translators call `node`, `constant`, `value` and `bind`.

    Attributes:
        values: ONNX value per translated node.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.inline: dict[str, TensorProto] = {}
        self.values: dict[fx.Node, str] = {}
        self._batch_sizes: dict[str, str] = {}
        self._count = 0

    def name_of(self, node: fx.Node) -> str:
        """ONNX value name of a translated node."""
        return self.values[node]

    def bind(self, node: fx.Node, name: str) -> None:
        """Say which ONNX value a node became."""
        self.values[node] = name

    def rename(self, names: Mapping[str, str]) -> None:
        """Call values by other names, wherever they are made and read."""
        for each in self.nodes:
            each.input[:] = [names.get(name, name) for name in each.input]
            each.output[:] = [names.get(name, name) for name in each.output]
        self.values = {node: names.get(name, name) for node, name in self.values.items()}

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        outputs: int | Sequence[str] = 1,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append an ONNX node; returns the name of its first output."""
        self._count += 1
        name = f"{operator}_{self._count}"
        names = [f"{name}.{i}" if i else name for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=name, domain=domain, **given))
        return names[0]

    def constant(self, value: NDArray[Any]) -> str:
        """A small constant inside the graph file; equal constants share one initializer."""
        name = f"const/{value.dtype}{list(value.shape)}/{value.tobytes().hex()[:64]}"
        if value.nbytes > 32:
            name += f"/{len(self.inline)}"
        if name not in self.inline:
            self.inline[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def value(self, argument: Any, dtype: torch.dtype) -> str:
        """Name of an operand as `dtype`: a node (cast if need be) or a Python number."""
        if isinstance(argument, fx.Node):
            name = self.name_of(argument)
            return name if val(argument).dtype == dtype else self.node("Cast", [name], to=ONNX_TYPES[dtype])
        return self.constant(np.asarray(argument, dtype=NUMPY_TYPES[dtype]))

    def batch_size(self, reference: fx.Node, factor: int) -> str:
        """An int64 vector of one entry: rows of `reference` times `factor`, computed when the graph runs."""
        key = f"{self.name_of(reference)}*{factor}"
        if key not in self._batch_sizes:
            rows = self.node("Shape", [self.name_of(reference)], start=0, end=1)
            self._batch_sizes[key] = self.node("Mul", [rows, self.integers([factor])])
        return self._batch_sizes[key]

    def batch_shape(self, reference: fx.Node, sizes: Sequence[int], axis: int) -> str:
        """An int64 shape in which ``sizes[axis]`` is multiplied by the rows of `reference`."""
        parts = [self.integers(sizes[:axis])] if axis else []
        parts.append(self.batch_size(reference, sizes[axis]))
        parts += [self.integers(sizes[axis + 1 :])] if sizes[axis + 1 :] else []
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)


def value_info(name: str, node: fx.Node) -> Any:
    """Declare a graph input or output; the batch dimension is left unset.

    Unset, not named: ONNX Runtime hands a buffer on to a later tensor only if it can prove equal shapes, and then keeps
    it alive in between. With the dimension unset it proves nothing and frees every buffer at its last use.
    """
    shape = [None if size == -1 else size for size in batch_free_shape(node)]
    return helper.make_tensor_value_info(name, ONNX_TYPES[val(node).dtype], shape)


def attributes_of(node: fx.Node, defaults: Mapping[str, Any]) -> list[Any]:
    """Positional and keyword arguments after the first tensor, filled up from `defaults`."""
    given = dict(zip(defaults, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k in defaults}
    return [given.get(name, default) for name, default in defaults.items()]
