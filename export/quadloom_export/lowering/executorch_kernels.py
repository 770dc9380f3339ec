"""The operators whose speed depends on who computes them, behind one interface, and the portable choice of kernels.

What is not here is as fast as in PyTorch when its operands have equal shapes or differ in one axis: the matrix products
call the same BLAS, and add, sub, mul and div are vectorized. The rest of the portable kernels go element by element,
some through a function pointer; so a slow one is written in terms of fast ones where that pays.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten

ROUNDING_SHIFT = 1.5 * 2.0**23
"""Adding it to a small float32 leaves no bits for a fraction: what is cut off is rounded to the nearest even."""
LONGEST_TURNED_ROW = 128
"""A product with the identity costs the square of the row's length: beyond this the stock kernel is faster."""


class Kernels(Protocol):
    """How the costly operators are computed.

    What they need besides their operands is made in advance: a first run, on shapes alone, notes what is asked for.
    """

    def make_ready(self) -> None:
        """Make what the runs so far have asked for."""
        ...

    def permuted(self, x: Tensor, order: list[int]) -> Tensor:
        """``x.permute(order)``, contiguous."""
        ...

    def softmax(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        ...

    def exp(self, x: Tensor) -> Tensor:
        """e to the x."""
        ...

    def sqrt(self, x: Tensor) -> Tensor:
        """The square root."""
        ...

    def gelu(self, x: Tensor) -> Tensor:
        """``x Phi(x)``."""
        ...

    def rounded_to_int8(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """The whole numbers nearest to ``x / scale + zero``, of two the even one; all within int8."""
        ...

    def to_float32(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """``(x - zero) * scale`` of integers of 8 bits."""
        ...

    def column_maximum(self, x: Tensor) -> Tensor:
        """Largest value per column of a matrix."""
        ...

    def column_minimum(self, x: Tensor) -> Tensor:
        """Smallest value per column of a matrix."""
        ...


class PortableKernels(nn.Module):
    """Portable and optimized kernels; the module holds constants that programs contain."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted: dict[str, Callable[[], Tensor]] = {}

    def make_ready(self) -> None:
        """Compute the constants."""
        for name, value in self._wanted.items():
            self.register_buffer(name, value())

    def permuted(self, x: Tensor, order: list[int]) -> Tensor:
        """Without the stock kernel, which computes an index per element, where rows stay whole or become columns."""
        last = x.dim() - 1
        if order[-1] == last:
            return self._rows_permuted(x, order)
        swaps = order == [*range(last - 1), last, last - 1]
        if swaps and x.dtype == torch.float32 and x.shape[-1] <= LONGEST_TURNED_ROW:
            return self._transposed(x)
        return aten.permute_copy.default(x, order)  # type: ignore[no-any-return]

    def _rows_permuted(self, x: Tensor, order: list[int]) -> Tensor:
        """A gather of rows."""
        shape, leading = tuple(x.shape[:-1]), tuple(order[:-1])
        rows = aten.view_copy.default(x, [-1, x.shape[-1]])
        name = "rows_" + "_".join(map(str, (*shape, "to", *leading)))
        gathered = aten.index_select.default(rows, 0, self._constant(name, lambda: _row_order(shape, leading)))
        return aten.view_copy.default(gathered, [x.shape[axis] for axis in order])  # type: ignore[no-any-return]

    def _transposed(self, x: Tensor) -> Tensor:
        """The last two axes swapped: multiplied by the identity all rows become columns, which a gather sorts."""
        *leading, height, width = x.shape
        identity = self._constant(f"identity_{width}", lambda: torch.eye(width))
        columns = aten.linear.default(identity, aten.view_copy.default(x, [-1, width]))
        turned = self._rows_permuted(aten.view_copy.default(columns, [width, -1, height]), [1, 0, 2])
        return aten.view_copy.default(turned, [*leading, width, height])  # type: ignore[no-any-return]

    def _constant(self, name: str, value: Callable[[], Tensor]) -> Tensor:
        self._wanted[name] = value
        return self.get_buffer(name) if hasattr(self, name) else value()

    def softmax(self, x: Tensor) -> Tensor:
        """The stock kernel computes every exponential twice."""
        exponential = aten.exp.default(aten.sub.Tensor(x, aten.amax.default(x, [-1], True)))
        total = aten.sum.dim_IntList(exponential, [-1], True)
        return aten.div.Tensor(exponential, total)  # type: ignore[no-any-return]

    def exp(self, x: Tensor) -> Tensor:
        """The stock kernel."""
        return aten.exp.default(x)  # type: ignore[no-any-return]

    def sqrt(self, x: Tensor) -> Tensor:
        """The stock kernel."""
        return aten.sqrt.default(x)  # type: ignore[no-any-return]

    def gelu(self, x: Tensor) -> Tensor:
        """The stock kernel."""
        return aten.gelu.default(x)  # type: ignore[no-any-return]

    def rounded_to_int8(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """Shifting the bits of a fraction out takes a fraction of the time of the stock kernel that rounds."""
        steps = x if scale == 1.0 else aten.mul.Tensor(x, 1.0 / scale)
        whole = aten.sub.Tensor(aten.add.Tensor(steps, ROUNDING_SHIFT), ROUNDING_SHIFT - zero)
        return aten._to_copy.default(whole, dtype=torch.int8)  # type: ignore[no-any-return]

    def to_float32(self, x: Tensor, scale: float = 1.0, zero: int = 0) -> Tensor:
        """The stock kernel."""
        steps = aten._to_copy.default(x, dtype=torch.float32)
        steps = steps if zero == 0 else aten.sub.Tensor(steps, float(zero))
        return steps if scale == 1.0 else aten.mul.Tensor(steps, scale)  # type: ignore[no-any-return]

    def column_maximum(self, x: Tensor) -> Tensor:
        """The stock kernel."""
        return aten.amax.default(x, [0])  # type: ignore[no-any-return]

    def column_minimum(self, x: Tensor) -> Tensor:
        """The stock kernel."""
        return aten.amin.default(x, [0])  # type: ignore[no-any-return]


def _row_order(shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """Old row number per row of a permutation of the leading axes."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.int32).view(shape).permute(order).reshape(-1).contiguous()


def run_on_shapes(module: nn.Module, examples: tuple[Tensor, ...]) -> None:
    """Call `module` without computing anything."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module(*(mode.from_tensor(example) for example in examples))
