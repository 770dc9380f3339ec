"""Programs whose operators write over what they read, run by the real runtime, against PyTorch."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

pytest.importorskip("executorch")

from quadloom_export.lowering.executorch import METHOD, ArenaPlanner, assemble
from quadloom_export.lowering.executorch_kernels import PortableKernels, run_on_shapes
from quadloom_export.lowering.executorch_xnnpack import XnnpackKernels

aten = torch.ops.aten

ROWS, COLUMNS = 130, 67  # large enough to be delegated, and no multiple of a vector register
SIZE_BYTES = 4 * ROWS * COLUMNS


class Operands(NamedTuple):
    """A tensor that the program makes, and one that it is given."""

    kernels: nn.Module
    made: torch.Tensor
    given: torch.Tensor


OVERWRITING = {
    "sum": lambda it: aten.add.Tensor(it.made, it.given),
    "sum with a column": lambda it: aten.add.Tensor(it.made, it.given[:, :1]),
    "difference": lambda it: aten.sub.Tensor(it.made, it.given, alpha=0.5),
    "difference from the other": lambda it: aten.sub.Tensor(it.given, it.made),
    "difference from a number": lambda it: aten.sub.Tensor(1.5, it.made),
    "product": lambda it: aten.mul.Tensor(it.given, it.made),
    "product with a column": lambda it: aten.mul.Tensor(it.made, it.given[:, :1]),
    "product with a row": lambda it: aten.mul.Tensor(it.made, it.given[:1]),
    "product with a number": lambda it: aten.mul.Tensor(it.made, 3.0),
    "square": lambda it: aten.mul.Tensor(it.made, it.made),
    "quotient": lambda it: aten.div.Tensor(it.made, it.given),
    "quotient by the column": lambda it: aten.div.Tensor(it.made, it.given[:, :1]),
    "negative": lambda it: aten.neg.default(it.made),
    "bounded": lambda it: aten.clamp.default(it.made, -0.5, 0.5),
    "exponential": lambda it: it.kernels.exp(it.made),
    "square root": lambda it: it.kernels.sqrt(it.made),
    "gelu": lambda it: it.kernels.gelu(it.made),
    "softmax": lambda it: it.kernels.softmax(it.made),
    "through a view": lambda it: aten.mul.Tensor(aten.view_copy.default(it.made, [-1, 10]), 3.0),
}
KEEPING = {
    "columns": lambda it: it.kernels.permuted(it.made, [1, 0]),
    "read again": lambda it: aten.add.Tensor(it.kernels.exp(it.made), it.made),
    "read again through a view": lambda it: aten.add.Tensor(
        aten.mul.Tensor(it.made, 2.0), aten.view_copy.default(aten.view_copy.default(it.made, [-1]), [ROWS, COLUMNS])
    ),
    "a row grows": lambda it: aten.add.Tensor(aten.mul.Tensor(it.made[:1], 2.0), it.given),
    "sum over rows": lambda it: aten.mul.Tensor(aten.sum.dim_IntList(it.made, [0], True), 2.0),
    "an input": lambda it: aten.add.Tensor(it.kernels.exp(it.given), aten.mul.Tensor(it.given, 2.0)),
}


class Operation(nn.Module):
    """A tensor that the program makes, and what an operator makes of it."""

    def __init__(self, kernels: nn.Module, operator) -> None:
        super().__init__()
        self.kernels, self._operator = kernels, operator

    def forward(self, x):
        return self._operator(Operands(self.kernels, aten.mul.Tensor(x, 0.7), x))


def run(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What the program computes, and the bytes alive at once."""
    from executorch.extension.pybindings import portable_lib

    planner = ArenaPlanner()
    with torch.no_grad():
        method = torch.export.export(module, (x,), strict=False)
    program = assemble({METHOD: method}, {METHOD: planner}, weights_tag=None).buffer
    loaded = portable_lib._load_for_executorch_from_buffer(program)  # reads the buffer wherever it lies
    (found,) = loaded.forward([x])
    return found.clone(), planner.lower_bound_bytes


def checked(make, operator) -> int:
    """Bytes alive at once, after the result is found right."""
    x = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) + 0.1
    module = Operation(make(), operator)
    expected = module(x)  # nothing is made ready yet: ATen's own operators
    run_on_shapes(module, (x,))
    module.kernels.make_ready()
    found, alive_bytes = run(module, x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    return alive_bytes


@pytest.mark.parametrize("name", OVERWRITING)
@pytest.mark.parametrize("make", [PortableKernels, XnnpackKernels])
def test_a_result_lies_where_an_operand_lay_that_nobody_reads_again(make, name):
    assert checked(make, OVERWRITING[name]) < 1.5 * SIZE_BYTES


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("make", [PortableKernels, XnnpackKernels])
def test_what_is_read_again_or_in_another_order_keeps_its_place(make, name):
    assert checked(make, KEEPING[name]) > SIZE_BYTES
