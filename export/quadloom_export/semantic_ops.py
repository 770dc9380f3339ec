"""The few operators that the passes need and ATen does not name. Importing this module registers them.

They keep the graph executable in PyTorch, so every pass can be checked by running the graph, and every lowering
translates one node into what its engine does best.

The second function of each pair gives shapes alone, so it ignores arguments that its signature must have.
"""

import math

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-30
"""Scale of an all-zero row: large enough to divide by, small enough to stay zero."""


@torch.library.custom_op("quadloom::gemm", mutates_args=())
def gemm(a: Tensor, b: Tensor, bias: Tensor | None, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:
    """``alpha * op(a) @ op(b) + bias`` for matrices; `bias` broadcasts to the result."""
    product = (a.t() if transpose_a else a) @ (b.t() if transpose_b else b)
    scaled = product if alpha == 1.0 else product * alpha
    return scaled.clone() if bias is None else scaled + bias


@gemm.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor | None, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:  # noqa: ARG001
    return a.new_empty(a.shape[1 if transpose_a else 0], b.shape[0 if transpose_b else 1])


@torch.library.custom_op("quadloom::batched_matmul", mutates_args=())
def batched_matmul(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:
    """``alpha * op(a) @ op(b)`` over 3-dimensional operands, op swapping the last two dimensions."""
    product = torch.bmm(a.transpose(1, 2) if transpose_a else a, b.transpose(1, 2) if transpose_b else b)
    return product if alpha == 1.0 else product * alpha


@batched_matmul.register_fake
def _(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool, alpha: float) -> Tensor:  # noqa: ARG001
    return a.new_empty(a.shape[0], a.shape[2 if transpose_a else 1], b.shape[1 if transpose_b else 2])


@torch.library.custom_op("quadloom::gelu_derivative", mutates_args=())
def gelu_derivative(x: Tensor) -> Tensor:
    """Derivative of the exact GELU, ``Phi(x) + x phi(x)``."""
    return 0.5 * (1 + torch.erf(x * 0.5**0.5)) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@gelu_derivative.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("quadloom::silu_derivative", mutates_args=())
def silu_derivative(x: Tensor) -> Tensor:
    """Derivative of ``x sigmoid(x)``; `passes.gate` writes it in plain operators, so no lowering sees it."""
    sigmoid = torch.sigmoid(x)
    return sigmoid + x * sigmoid * (1 - sigmoid)


@silu_derivative.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("quadloom::unit_interval", mutates_args=())
def unit_interval(x: Tensor) -> Tensor:
    """Map [-1, 1] onto [0, 1]: ``0.5 x + 0.5``, one pass over memory in every engine."""
    return x * 0.5 + 0.5


@unit_interval.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("quadloom::normal_cdf", mutates_args=())
def normal_cdf(y: Tensor) -> Tensor:
    """The normal distribution function at ``sqrt(2) y``: ``0.5 erf(y) + 0.5``."""
    return 0.5 * torch.erf(y) + 0.5


@normal_cdf.register_fake
def _(y: Tensor) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op("quadloom::row_minimum", mutates_args=())
def row_minimum(x: Tensor) -> Tensor:
    """Smallest value per row of ``(rows, group)`` float32, zero where all are above."""
    return x.amin(1).clamp_max(0)


@row_minimum.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0])


@torch.library.custom_op("quadloom::row_scale", mutates_args=())
def row_scale(x: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:
    """Scale per row: the range from the smallest to the largest value over `levels` (255 for INT8, 15 for INT4).

    Zero is within every range, so that it is stored as it is. Without a `minimum`, `lower_bound` (at most 0), which no
    value lies below, stands for it, and nobody has to look for it.
    """
    lowest = lower_bound if minimum is None else minimum
    return (x.amax(1).clamp_min(SMALLEST_SCALE) - lowest) * step_share(levels)


@row_scale.register_fake
def _(x: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0])


def step_share(levels: int) -> float:
    """One step as a share of the range: a little more than one of `levels`, so that rounding never ends beyond them."""
    return 1.0 / (levels - 1e-3)


@torch.library.custom_op("quadloom::zero_point", mutates_args=())
def zero_point(scale: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:
    """The int8 (of 255 levels) or uint8 that stands for zero in each row; arguments as those of `row_scale`."""
    lowest = torch.tensor(lower_bound) if minimum is None else minimum
    return (torch.round(-lowest / scale) + smallest_stored(levels)).expand_as(scale).to(stored_type(levels))


@zero_point.register_fake
def _(scale: Tensor, minimum: Tensor | None, lower_bound: float, levels: int) -> Tensor:  # noqa: ARG001
    return scale.new_empty(scale.shape, dtype=stored_type(levels))


def smallest_stored(levels: int) -> int:
    """What stands for the smallest value of a row: 255 levels need all integers of eight bits, fewer start at zero."""
    return -128 if levels > 127 else 0


def stored_type(levels: int) -> torch.dtype:
    """Of the integers; those of less than eight bits are put together, which engines do with unsigned ones alone."""
    return torch.int8 if levels > 127 else torch.uint8


@torch.library.custom_op("quadloom::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """``(rows, group)`` float32 -> type of `zero`, ``round(x / scale) + zero``, ties to even; int8 without."""
    steps, dtype = torch.round(x / scale[:, None]), torch.int8 if zero is None else zero.dtype
    bounds = torch.iinfo(dtype)
    return (steps if zero is None else steps + zero[:, None]).clamp(bounds.min, bounds.max).to(dtype)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.int8 if zero is None else zero.dtype)


@torch.library.custom_op("quadloom::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """``(rows, group)`` int8 or uint8 -> float32, ``(x - zero) * scale``; no `zero` is 0."""
    steps = x.to(torch.float32)
    return (steps if zero is None else steps - zero[:, None]) * scale[:, None]


@dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.custom_op("quadloom::quantize_fixed", mutates_args=())
def quantize_fixed(x: Tensor, scale: float, zero: int) -> Tensor:
    """Float32 -> int8, ``round(x / scale) + zero`` with one scale for all, known before any value; ties to even."""
    return (torch.round(x / scale) + zero).clamp(-128, 127).to(torch.int8)


@quantize_fixed.register_fake
def _(x: Tensor, scale: float, zero: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.int8)


@torch.library.custom_op("quadloom::dequantize_fixed", mutates_args=())
def dequantize_fixed(x: Tensor, scale: float, zero: int) -> Tensor:
    """Int8 -> float32, ``(x - zero) * scale``."""
    return (x.to(torch.float32) - zero) * scale


@dequantize_fixed.register_fake
def _(x: Tensor, scale: float, zero: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.custom_op("quadloom::batch_full", mutates_args=())
def batch_full(reference: Tensor, shape: list[int], batch_axis: int, value: float) -> Tensor:
    """A float32 constant whose `batch_axis` has ``shape[batch_axis]`` entries per row of `reference`."""
    sizes = [size * reference.shape[0] if axis == batch_axis else size for axis, size in enumerate(shape)]
    return torch.full(sizes, value, dtype=torch.float32)


@batch_full.register_fake
def _(reference: Tensor, shape: list[int], batch_axis: int, value: float) -> Tensor:  # noqa: ARG001
    sizes = [size * reference.shape[0] if axis == batch_axis else size for axis, size in enumerate(shape)]
    return reference.new_empty(sizes, dtype=torch.float32)


@torch.library.custom_op("quadloom::batch_tile", mutates_args=())
def batch_tile(x: Tensor, reference: Tensor, repeats: list[int], batch_axis: int) -> Tensor:
    """``x.repeat`` where `batch_axis` repeats ``repeats[batch_axis]`` times per row of `reference`."""
    return x.repeat([n * reference.shape[0] if axis == batch_axis else n for axis, n in enumerate(repeats)])


@batch_tile.register_fake
def _(x: Tensor, reference: Tensor, repeats: list[int], batch_axis: int) -> Tensor:
    return x.repeat([n * reference.shape[0] if axis == batch_axis else n for axis, n in enumerate(repeats)])
