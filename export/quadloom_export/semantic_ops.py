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


@torch.library.custom_op("quadloom::row_scale", mutates_args=())
def row_scale(x: Tensor, levels: int, lower_bound: float | None) -> Tensor:
    """Scale per row of ``(rows, group)`` float32: the largest magnitude over `levels` (127 for INT8, 7 for INT4).

    Where `x` is known never to lie below `lower_bound` (at most 0), that bound stands for the smallest value, and
    nobody has to look for it.
    """
    smallest = x.amin(1) if lower_bound is None else torch.tensor(lower_bound)
    return torch.maximum(x.amax(1), -smallest).clamp_min(SMALLEST_SCALE) * (1.0 / levels)


@row_scale.register_fake
def _(x: Tensor, levels: int, lower_bound: float | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0])


@torch.library.custom_op("quadloom::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """``(rows, group)`` float32 -> int8, ``round(x / scale)``, ties to even."""
    return torch.round(x / scale[:, None]).clamp(-128, 127).to(torch.int8)


@quantize.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.int8)


@torch.library.custom_op("quadloom::dequantize", mutates_args=())
def dequantize(x: Tensor, scale: Tensor) -> Tensor:
    """``(rows, group)`` int8 -> float32, ``x * scale``."""
    return x.to(torch.float32) * scale[:, None]


@dequantize.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.float32)


@torch.library.custom_op("quadloom::pack_int4", mutates_args=())
def pack_int4(x: Tensor) -> Tensor:
    """``(rows, group)`` int8 in [-8, 7] -> ``(rows, group / 2)`` uint8; column j pairs with column j + group / 2."""
    nibbles = x.view(torch.uint8) & 15
    half = x.shape[1] // 2
    return nibbles[:, :half] | (nibbles[:, half:] << 4)


@pack_int4.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 2), dtype=torch.uint8)


@torch.library.custom_op("quadloom::unpack_int4", mutates_args=())
def unpack_int4(x: Tensor) -> Tensor:
    """Undo `pack_int4`, as 16 times the value: a nibble in the upper half of an int8 needs no sign extension."""
    return torch.cat([x << 4, x & 240], dim=1).view(torch.int8)


@unpack_int4.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] * 2), dtype=torch.int8)


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
