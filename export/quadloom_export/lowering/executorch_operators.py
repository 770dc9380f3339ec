"""What each operator of a joint graph is in terms of operators that ExecuTorch runs.

A translation is a plain function on tensors; `lowering.executorch` traces it. Copying variants (``permute_copy`` and
its like) stand for views with strides of their own, which the runtime does not have: every tensor is contiguous.

The vectorized kernels take operands of equal shape, a scalar, a matrix with a row, and shapes that differ in one axis;
anything else is broadcast element by element. So operands are reshaped to such a form first.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quadloom_export.lowering.executorch_kernels import ROUNDING_SHIFT, Kernels
from quadloom_export.semantic_ops import SMALLEST_SCALE, smallest_stored, step_share, stored_type

aten = torch.ops.aten
quadloom = torch.ops.quadloom

WIDE_ROW = 4096
"""Terms from which on a sum in one float32 accumulator is too coarse for a gradient."""


def gemm(
    kernels: Kernels,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    transpose_a: bool,
    transpose_b: bool,
    alpha: float,
) -> Tensor:
    """``alpha * op(a) @ op(b) + bias`` with as little transposing as possible: linear reads its second operand so."""
    result_size = a.shape[1 if transpose_a else 0] * b.shape[0 if transpose_b else 1]
    a, b, after = _scaled(a, b, alpha, result_size)
    swapped_cost = result_size + (0 if transpose_b else b.numel())
    if transpose_a and swapped_cost < a.numel():  # op(a) @ op(b) = (op(b).T @ op(a).T).T
        left = b if transpose_b else _transposed(kernels, b)
        product = _transposed(kernels, aten.mm.default(left, a))
    else:
        left = _transposed(kernels, a) if transpose_a else a
        if transpose_b and after == 1.0 and (bias is None or bias.dim() == 1):
            return aten.linear.default(left, b, bias)  # type: ignore[no-any-return]
        product = aten.linear.default(left, b) if transpose_b else aten.mm.default(left, b)
    scaled = product if after == 1.0 else aten.mul.Tensor(product, after)
    return scaled if bias is None else aten.add.Tensor(scaled, bias)


def batched_matmul(
    kernels: Kernels, a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool, alpha: float
) -> Tensor:
    """``alpha * op(a) @ op(b)``; of the two ways to transpose, the one that copies less."""
    result_size = a.shape[0] * a.shape[2 if transpose_a else 1] * b.shape[1 if transpose_b else 2]
    a, b, after = _scaled(a, b, alpha, result_size)
    straight_cost = a.numel() * transpose_a + b.numel() * transpose_b
    swapped_cost = a.numel() * (not transpose_a) + b.numel() * (not transpose_b) + result_size
    # If equal, two small copies after each other take less memory than a large one.
    if swapped_cost <= straight_cost and straight_cost:
        left = b if transpose_b else _transposed(kernels, b)
        right = a if transpose_a else _transposed(kernels, a)
        product = _transposed(kernels, aten.bmm.default(left, right))
    else:
        left = _transposed(kernels, a) if transpose_a else a
        right = _transposed(kernels, b) if transpose_b else b
        product = aten.bmm.default(left, right)
    return product if after == 1.0 else aten.mul.Tensor(product, after)


def normal_cdf(kernels: Kernels, y: Tensor) -> Tensor:
    """``Phi(sqrt(2) y) = gelu(x) / x`` at ``x = sqrt(2) y``: GELU has a fast kernel, the error function none.

    The shift keeps x from zero and is too small to change any other value.
    """
    x = aten.sub.Tensor(SMALLEST_SCALE, y, alpha=-math.sqrt(2))
    return aten.div.Tensor(kernels.gelu(x), x)  # type: ignore[no-any-return]


def gelu_derivative(kernels: Kernels, x: Tensor) -> Tensor:
    """``Phi(x) + x phi(x)``."""
    distribution = normal_cdf(kernels, aten.mul.Tensor(x, math.sqrt(0.5)))
    density = kernels.exp(aten.mul.Tensor(aten.mul.Tensor(x, x), -0.5))
    return aten.add.Tensor(  # type: ignore[no-any-return]
        distribution, aten.mul.Tensor(x, density), alpha=1 / math.sqrt(2 * math.pi)
    )


def unit_interval(x: Tensor) -> Tensor:
    """``0.5 x + 0.5``."""
    return aten.add.Tensor(aten.mul.Tensor(x, 0.5), 0.5)  # type: ignore[no-any-return]


def row_minimum(x: Tensor) -> Tensor:
    """The smallest value or zero."""
    return aten.clamp.default(aten.amin.default(x, [1]), None, 0.0)  # type: ignore[no-any-return]


def row_scale(x: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:
    """The range over `levels`."""
    largest = aten.clamp.default(aten.amax.default(x, [1]), SMALLEST_SCALE)
    spread = aten.sub.Tensor(largest, lower_bound if minimum is None else minimum)
    return aten.mul.Tensor(spread, step_share(levels))  # type: ignore[no-any-return]


def zero_point(scale: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:
    """``round(-minimum / scale)`` steps above the smallest number."""
    lowest = aten.full.default(list(scale.shape), lower_bound, dtype=scale.dtype) if minimum is None else minimum
    steps = aten.sub.Tensor(ROUNDING_SHIFT, aten.div.Tensor(lowest, scale))
    zero = aten.sub.Tensor(steps, ROUNDING_SHIFT - smallest_stored(levels))
    return aten._to_copy.default(zero, dtype=stored_type(levels))  # type: ignore[no-any-return]


def quantize(kernels: Kernels, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """``round(x / scale + zero)``, a pass less than adding the zero point afterwards; only ties may differ from that.

    Always int8, since converting to uint8 takes longer than all the rest.
    """
    return kernels.rounded_to_int8(aten.add.Tensor(aten.div.Tensor(x, _column(scale)), _column(_float32(zero))))


def dequantize(kernels: Kernels, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """``(x - zero) * scale``."""
    steps = kernels.to_float32(x)
    if zero is not None:
        steps = aten.sub.Tensor(steps, _column(_float32(zero)))
    return aten.mul.Tensor(steps, scale if scale.dim() == 2 else _column(scale))  # type: ignore[no-any-return]


def quantize_fixed(kernels: Kernels, x: Tensor, scale: float, zero: int) -> Tensor:
    """As `quantize`, by one conversion."""
    return kernels.rounded_to_int8(x, scale, zero)


def dequantize_fixed(kernels: Kernels, x: Tensor, scale: float, zero: int) -> Tensor:
    """``(x - zero) * scale``, by one conversion."""
    return kernels.to_float32(x, scale, zero)


def upper_bits(x: Tensor, shift: int) -> Tensor:
    """``x >> shift`` of what the graph knows as uint8: of int8, whose sign comes down with the shift, without it."""
    shifted = aten.bitwise_right_shift.Tensor_Scalar(x, shift)
    return aten.bitwise_and.Scalar(shifted, 255 >> shift) if x.dtype == torch.int8 else shifted  # type: ignore[no-any-return]


def softmax(kernels: Kernels, x: Tensor, axis: int, half_to_float: bool) -> Tensor:
    """Softmax; over a vocabulary a kernel's running sum loses the tail, 3e-4 of 49,152 terms, so a product adds."""
    if axis % x.dim() != x.dim() - 1:
        return aten._softmax.default(x, axis, half_to_float)  # type: ignore[no-any-return]
    if x.dim() != 2 or x.shape[1] < WIDE_ROW:
        return kernels.softmax(x)
    powers = kernels.exp(aten.sub.Tensor(x, aten.amax.default(x, [1], True)))
    total = aten.mm.default(powers, aten.full.default([x.shape[1], 1], 1.0, dtype=x.dtype))
    return aten.div.Tensor(powers, total)  # type: ignore[no-any-return]


def gelu(kernels: Kernels, x: Tensor, *, approximate: str = "none") -> Tensor:
    """Exact, or by the hyperbolic tangent."""
    return kernels.gelu(x) if approximate == "none" else aten.gelu.default(x, approximate=approximate)


def largest(kernels: Kernels, x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """Per column of a matrix by a kernel for that."""
    return kernels.column_maximum(x) if _goes_down_columns(x, axes, keep) else aten.amax.default(x, axes, keep)


def smallest(kernels: Kernels, x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """Per column of a matrix by a kernel for that."""
    return kernels.column_minimum(x) if _goes_down_columns(x, axes, keep) else aten.amin.default(x, axes, keep)


def _goes_down_columns(x: Tensor, axes: list[int], keep: bool) -> bool:
    return x.dim() == 2 and axes == [0] and not keep


def mean(x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """By the sum."""
    count = math.prod(x.shape[axis] for axis in axes)
    return aten.mul.Tensor(total(x, axes, keep), 1.0 / count)  # type: ignore[no-any-return]


def total(x: Tensor, axes: list[int], keep: bool = False) -> Tensor:
    """The sum; along rows a product with ones, since its kernel adds one value after the other."""
    if [axis % x.dim() for axis in axes] != [x.dim() - 1] or x.dtype != torch.float32:
        return aten.sum.dim_IntList(x, axes, keep)  # type: ignore[no-any-return]
    ones = aten.full.default([1, x.shape[-1]], 1.0, dtype=x.dtype)
    sums = aten.linear.default(aten.view_copy.default(x, [-1, x.shape[-1]]), ones)
    return aten.view_copy.default(sums, [*x.shape[:-1], *([1] if keep else [])])  # type: ignore[no-any-return]


def elementwise(operator: Callable[..., Tensor], a: Any, b: Any, **settings: Any) -> Tensor:
    """An operator of two tensors in shapes that its vectorized kernel takes."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dim() < 3:
        return operator(a, b, **settings)
    if b.dim() == 1 and b.shape[0] == a.shape[-1]:
        flat = operator(aten.view_copy.default(a, [-1, a.shape[-1]]), b, **settings)
        return aten.view_copy.default(flat, list(a.shape))  # type: ignore[no-any-return]
    return operator(a, b, **settings)


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


def full_like(x: Tensor, value: float, **_: Any) -> Tensor:
    """A constant of known shape."""
    return aten.full.default(list(x.shape), value, dtype=x.dtype)  # type: ignore[no-any-return]


def translations(kernels: Kernels) -> dict[Any, Callable[..., Any]]:
    """What each operator becomes; one that is not here stands for itself."""
    costly: dict[Any, Callable[..., Tensor]] = {
        quadloom.gemm.default: gemm,
        quadloom.batched_matmul.default: batched_matmul,
        quadloom.gelu_derivative.default: gelu_derivative,
        quadloom.normal_cdf.default: normal_cdf,
        quadloom.quantize.default: quantize,
        quadloom.dequantize.default: dequantize,
        quadloom.quantize_fixed.default: quantize_fixed,
        quadloom.dequantize_fixed.default: dequantize_fixed,
        aten._softmax.default: softmax,
        aten.gelu.default: gelu,
        aten.amax.default: largest,
        aten.amin.default: smallest,
    }
    return {
        **{target: partial(function, kernels) for target, function in costly.items()},
        **{each: partial(elementwise, each) for each in (aten.add.Tensor, aten.mul.Tensor)},
        aten.permute.default: kernels.permuted,
        aten.bitwise_right_shift.Tensor_Scalar: upper_bits,
        aten.exp.default: kernels.exp,
        aten.sqrt.default: kernels.sqrt,
        aten.mean.dim: mean,
        aten.sum.dim_IntList: total,
        quadloom.unit_interval.default: unit_interval,
        quadloom.row_minimum.default: row_minimum,
        quadloom.row_scale.default: row_scale,
        quadloom.zero_point.default: zero_point,
        quadloom.batch_full.default: batch_full,
        quadloom.batch_tile.default: batch_tile,
        aten.reshape.default: reshape,
        aten.full_like.default: full_like,
        aten.expand.default: aten.expand_copy.default,
        aten.slice.Tensor: aten.slice_copy.Tensor,
        aten.select.int: aten.select_copy.int,
    }


def _scaled(a: Tensor, b: Tensor, alpha: float, result_size: int) -> tuple[Tensor, Tensor, float]:
    """Scale the smallest of both operands and the result; returns what is left to multiply the result by."""
    if alpha == 1.0 or result_size <= min(a.numel(), b.numel()):
        return a, b, alpha
    if a.numel() <= b.numel():
        return aten.mul.Tensor(a, alpha), b, 1.0
    return a, aten.mul.Tensor(b, alpha), 1.0


def _transposed(kernels: Kernels, x: Tensor) -> Tensor:
    axes = list(range(x.dim()))
    return kernels.permuted(x, [*axes[:-2], axes[-1], axes[-2]])


def _column(scale: Tensor) -> Tensor:
    return aten.view_copy.default(scale, [-1, 1])  # type: ignore[no-any-return]


def _float32(x: Tensor) -> Tensor:
    return aten._to_copy.default(x, dtype=torch.float32)  # type: ignore[no-any-return]
