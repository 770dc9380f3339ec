"""What each operator of a joint graph is in terms of ATen operators that have portable or optimized kernels.

A translation is a plain function on tensors; `lowering.executorch` traces it. Copying variants (``permute_copy`` and
its like) stand for views with strides of their own, which the runtime does not have: every tensor is contiguous.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quadloom_export.semantic_ops import SMALLEST_SCALE

aten = torch.ops.aten
quadloom = torch.ops.quadloom

WIDE_ROW = 4096
"""Terms from which on a sum in one float32 accumulator is too coarse for a gradient."""


def gemm(a: Tensor, b: Tensor, bias: Tensor | None, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:
    """``alpha * op(a) @ op(b) + bias`` with as little transposing as possible: linear reads its second operand so."""
    result_size = a.shape[1 if transpose_a else 0] * b.shape[0 if transpose_b else 1]
    a, b, after = _scaled(a, b, alpha, result_size)
    swapped_cost = result_size + (0 if transpose_b else b.numel())
    if transpose_a and swapped_cost < a.numel():  # op(a) @ op(b) = (op(b).T @ op(a).T).T
        left = b if transpose_b else _transposed(b)
        product = _transposed(aten.mm.default(left, a))
    else:
        left = _transposed(a) if transpose_a else a
        if transpose_b and after == 1.0 and (bias is None or bias.dim() == 1):
            return aten.linear.default(left, b, bias)  # type: ignore[no-any-return]
        product = aten.linear.default(left, b) if transpose_b else aten.mm.default(left, b)
    scaled = product if after == 1.0 else aten.mul.Tensor(product, after)
    return scaled if bias is None else aten.add.Tensor(scaled, bias)


def batched_matmul(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:
    """``alpha * op(a) @ op(b)``; of the two ways to transpose, the one that copies less."""
    result_size = a.shape[0] * a.shape[2 if transpose_a else 1] * b.shape[1 if transpose_b else 2]
    a, b, after = _scaled(a, b, alpha, result_size)
    straight_cost = a.numel() * transpose_a + b.numel() * transpose_b
    swapped_cost = a.numel() * (not transpose_a) + b.numel() * (not transpose_b) + result_size
    if swapped_cost < straight_cost:
        left = b if transpose_b else _transposed(b)
        right = a if transpose_a else _transposed(a)
        product = _transposed(aten.bmm.default(left, right))
    else:
        product = aten.bmm.default(_transposed(a) if transpose_a else a, _transposed(b) if transpose_b else b)
    return product if after == 1.0 else aten.mul.Tensor(product, after)


def gelu_derivative(x: Tensor) -> Tensor:
    """``Phi(x) + x phi(x)``."""
    distribution = aten.erf.default(aten.mul.Tensor(x, 0.5**0.5))
    distribution = aten.mul.Tensor(aten.add.Tensor(distribution, 1.0), 0.5)
    density = aten.exp.default(aten.mul.Tensor(aten.mul.Tensor(x, x), -0.5))
    weighted = aten.mul.Tensor(aten.mul.Tensor(x, density), 1 / math.sqrt(2 * math.pi))
    return aten.add.Tensor(distribution, weighted)  # type: ignore[no-any-return]


def unit_interval(x: Tensor) -> Tensor:
    """``0.5 x + 0.5``."""
    return aten.add.Tensor(aten.mul.Tensor(x, 0.5), 0.5)  # type: ignore[no-any-return]


def row_scale(x: Tensor, levels: int, lower_bound: float | None) -> Tensor:
    """The larger of max and -min over `levels`: |x| as a whole would need another full-size buffer."""
    magnitude = aten.amax.default(x, [1])
    if lower_bound is None:
        magnitude = aten.maximum.default(magnitude, aten.neg.default(aten.amin.default(x, [1])))
    floor = -lower_bound if lower_bound else SMALLEST_SCALE
    return aten.mul.Tensor(aten.clamp.default(magnitude, floor), 1.0 / levels)  # type: ignore[no-any-return]


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """``round(x / scale)`` within int8."""
    rounded = aten.round.default(aten.div.Tensor(x, _column(scale)))
    return aten._to_copy.default(aten.clamp.default(rounded, -128, 127), dtype=torch.int8)  # type: ignore[no-any-return]


def dequantize(x: Tensor, scale: Tensor) -> Tensor:
    """``x * scale``."""
    return aten.mul.Tensor(aten._to_copy.default(x, dtype=torch.float32), _column(scale))  # type: ignore[no-any-return]


def pack_int4(x: Tensor) -> Tensor:
    """Two values a byte: the shift drops the sign bits of the upper one."""
    unsigned, half = aten._to_copy.default(x, dtype=torch.uint8), x.shape[1] // 2
    low = aten.bitwise_and.Scalar(aten.slice_copy.Tensor(unsigned, 1, 0, half), 15)
    high = aten.bitwise_left_shift.Tensor_Scalar(aten.slice_copy.Tensor(unsigned, 1, half, 2 * half), 4)
    return aten.bitwise_or.Tensor(low, high)  # type: ignore[no-any-return]


def unpack_int4(x: Tensor) -> Tensor:
    """16 times each value, as int8."""
    low, high = aten.bitwise_left_shift.Tensor_Scalar(x, 4), aten.bitwise_and.Scalar(x, 240)
    return aten._to_copy.default(aten.cat.default([low, high], 1), dtype=torch.int8)  # type: ignore[no-any-return]


def batch_full(reference: Tensor, shape: list[int], batch_axis: int, value: float) -> Tensor:
    """A constant of the static batch size."""
    sizes = [size * reference.shape[0] if axis == batch_axis else size for axis, size in enumerate(shape)]
    return aten.full.default(sizes, value, dtype=torch.float32)  # type: ignore[no-any-return]


def batch_tile(x: Tensor, reference: Tensor, repeats: list[int], batch_axis: int) -> Tensor:
    """``x`` repeated to the static batch size."""
    counts = [n * reference.shape[0] if axis == batch_axis else n for axis, n in enumerate(repeats)]
    return aten.repeat.default(x, counts)  # type: ignore[no-any-return]


def reshape(x: Tensor, shape: list[int]) -> Tensor:
    """A view in the end: the lowering has the runtime elide it."""
    return aten.view_copy.default(x, shape)  # type: ignore[no-any-return]


def softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """Softmax; over a vocabulary the kernel's running sum loses the tail, 3e-4 of 49,152 terms, so a product adds."""
    if x.dim() != 2 or x.shape[1] < WIDE_ROW:
        return aten._softmax.default(x, dim, half_to_float)  # type: ignore[no-any-return]
    powers = aten.exp.default(aten.sub.Tensor(x, aten.amax.default(x, [1], True)))
    total = aten.mm.default(powers, aten.full.default([x.shape[1], 1], 1.0, dtype=x.dtype))
    return aten.div.Tensor(powers, total)  # type: ignore[no-any-return]


def full_like(x: Tensor, value: float, **_: Any) -> Tensor:
    """A constant of known shape."""
    return aten.full.default(list(x.shape), value, dtype=x.dtype)  # type: ignore[no-any-return]


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    quadloom.gemm.default: gemm,
    quadloom.batched_matmul.default: batched_matmul,
    quadloom.gelu_derivative.default: gelu_derivative,
    quadloom.unit_interval.default: unit_interval,
    quadloom.row_scale.default: row_scale,
    quadloom.quantize.default: quantize,
    quadloom.dequantize.default: dequantize,
    quadloom.pack_int4.default: pack_int4,
    quadloom.unpack_int4.default: unpack_int4,
    quadloom.batch_full.default: batch_full,
    quadloom.batch_tile.default: batch_tile,
    aten.reshape.default: reshape,
    aten._softmax.default: softmax,
    aten.full_like.default: full_like,
    aten.permute.default: aten.permute_copy.default,
    aten.expand.default: aten.expand_copy.default,
    aten.slice.Tensor: aten.slice_copy.Tensor,
    aten.select.int: aten.select_copy.int,
}
"""What is not here stands for itself."""


def _scaled(a: Tensor, b: Tensor, alpha: float, result_size: int) -> tuple[Tensor, Tensor, float]:
    """Scale the smallest of both operands and the result; returns what is left to multiply the result by."""
    if alpha == 1.0 or result_size <= min(a.numel(), b.numel()):
        return a, b, alpha
    if a.numel() <= b.numel():
        return aten.mul.Tensor(a, alpha), b, 1.0
    return a, aten.mul.Tensor(b, alpha), 1.0


def _transposed(x: Tensor) -> Tensor:
    axes = list(range(x.dim()))
    return aten.permute_copy.default(x, [*axes[:-2], axes[-1], axes[-2]])  # type: ignore[no-any-return]


def _column(scale: Tensor) -> Tensor:
    return aten.view_copy.default(scale, [-1, 1])  # type: ignore[no-any-return]
