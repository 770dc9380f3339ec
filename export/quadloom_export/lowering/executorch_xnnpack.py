"""Kernels of XNNPACK for what the portable ones are slow at, one delegate call per operator.

Nothing with weights is delegated: XNNPACK would hold a packed copy of them outside the arena, and its products are no
faster than the BLAS behind the portable ones. A call reads and writes the arena and has no buffers of its own, so the
order of the graph and the memory plan stay what they are.

Each operator is lowered once per shape and called wherever it occurs. That also keeps the order: XNNPACK's partitioner
sorts the graph anew.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from quadloom_export.lowering.executorch_kernels import PortableKernels
from quadloom_export.lowering.executorch_pooling import column_maximum_call

aten = torch.ops.aten

FEWEST_ELEMENTS = 8192
"""A call costs some microseconds: smaller tensors are faster with the portable kernels."""


@dataclass(frozen=True)
class _Call:
    """One operator on one shape."""

    operator: Callable[..., Tensor]
    shape: tuple[int, ...]
    dtype: torch.dtype
    settings: tuple[Hashable, ...]


class XnnpackKernels(nn.Module):
    """XNNPACK for large tensors, portable kernels for small ones."""

    def __init__(self) -> None:
        super().__init__()
        # The package registers the operators that quantize when this module is imported.
        import torch.ao.quantization.fx._decomposed  # noqa: F401

        self._portable = PortableKernels()
        self._delegates: dict[_Call, Any] = {}
        self._wanted: dict[_Call, None] = {}

    def make_ready(self) -> None:
        """Lower the delegates."""
        self._portable.make_ready()
        self._delegates |= {call: _lowered(call) for call in self._wanted}

    def permuted(self, x: Tensor, order: list[int]) -> Tensor:
        """XNNPACK's transposition."""
        if x.numel() < FEWEST_ELEMENTS or x.dtype != torch.float32:
            return self._portable.permuted(x, order)
        return self._delegated(aten.permute_copy.default, x, tuple(order))

    def softmax(self, x: Tensor) -> Tensor:
        """XNNPACK's softmax."""
        if x.numel() < FEWEST_ELEMENTS:
            return self._portable.softmax(x)
        return self._delegated(aten._softmax.default, x, -1, False)

    def exp(self, x: Tensor) -> Tensor:
        """XNNPACK's exponential function."""
        return self._portable.exp(x) if x.numel() < FEWEST_ELEMENTS else self._delegated(aten.exp.default, x)

    def sqrt(self, x: Tensor) -> Tensor:
        """XNNPACK's square root."""
        return self._portable.sqrt(x) if x.numel() < FEWEST_ELEMENTS else self._delegated(aten.sqrt.default, x)

    def gelu(self, x: Tensor) -> Tensor:
        """XNNPACK's exact GELU."""
        return self._portable.gelu(x) if x.numel() < FEWEST_ELEMENTS else self._delegated(aten.gelu.default, x)

    def rounded_to_int8(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """XNNPACK's conversion rounds."""
        if x.numel() < FEWEST_ELEMENTS:
            return self._portable.rounded_to_int8(x, scale, zero)
        quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
        return self._delegated(quantize, x, scale, zero, -128, 127, torch.int8)

    def to_float32(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """XNNPACK's conversion; it takes signed integers alone."""
        if x.numel() < FEWEST_ELEMENTS or x.dtype != torch.int8:
            return self._portable.to_float32(x, scale, zero)
        dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        return self._delegated(dequantize, x, scale, zero, -128, 127, torch.int8)

    def column_maximum(self, x: Tensor) -> Tensor:
        """XNNPACK's pooling."""
        if x.numel() < FEWEST_ELEMENTS:
            return self._portable.column_maximum(x)
        image = aten.view_copy.default(x, [1, 1, *x.shape])
        return aten.view_copy.default(self._delegated(aten.amax.default, image, (2,), True), [x.shape[1]])  # type: ignore[no-any-return]

    def column_minimum(self, x: Tensor) -> Tensor:
        """XNNPACK's pooling of the opposite values, since it looks for the largest only."""
        if x.numel() < FEWEST_ELEMENTS:
            return self._portable.column_minimum(x)
        return aten.neg.default(self.column_maximum(aten.neg.default(x)))  # type: ignore[no-any-return]

    def _delegated(self, operator: Callable[..., Tensor], x: Tensor, *settings: Hashable) -> Tensor:
        call = _Call(operator, tuple(x.shape), x.dtype, settings)
        if call in self._delegates:
            return self._delegates[call](x)  # type: ignore[no-any-return]
        self._wanted[call] = None
        return operator(x, *settings)


class _Operator(nn.Module):
    def __init__(self, call: _Call) -> None:
        super().__init__()
        self._call = call

    def forward(self, x: Tensor) -> Tensor:
        return self._call.operator(x, *self._call.settings)


@cache
def _lowered(call: _Call) -> Any:
    """The operator as a module that stands for a call of XNNPACK; the members of a family share most of them."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
    from executorch.exir import EdgeCompileConfig, to_edge
    from executorch.exir.backend.backend_api import to_backend
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    example = torch.zeros(call.shape, dtype=call.dtype)
    exported = torch.export.export(_Operator(call), (example,), strict=False)
    edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False)).exported_program()
    if call.operator == aten.amax.default:
        pooling = column_maximum_call(*call.shape[2:])
        return LoweredBackendModule(edge, XnnpackBackend.__name__, pooling, [], None)
    return to_backend(XnnpackBackend.__name__, edge, [])
