"""Programs whose operators write over what they read, run by the real runtime, against PyTorch."""

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

OVERWRITING = {
    "sum": lambda kernels, a, x: aten.add.Tensor(a, x),
    "sum with a column": lambda kernels, a, x: aten.add.Tensor(a, x[:, :1]),
    "difference": lambda kernels, a, x: aten.sub.Tensor(a, x, alpha=0.5),
    "difference from the other": lambda kernels, a, x: aten.sub.Tensor(x, a),
    "difference from a number": lambda kernels, a, x: aten.sub.Tensor(1.5, a),
    "product": lambda kernels, a, x: aten.mul.Tensor(x, a),
    "product with a column": lambda kernels, a, x: aten.mul.Tensor(a, x[:, :1]),
    "product with a row": lambda kernels, a, x: aten.mul.Tensor(a, x[:1]),
    "product with a number": lambda kernels, a, x: aten.mul.Tensor(a, 3.0),
    "square": lambda kernels, a, x: aten.mul.Tensor(a, a),
    "quotient": lambda kernels, a, x: aten.div.Tensor(a, x),
    "quotient by the column": lambda kernels, a, x: aten.div.Tensor(a, x[:, :1]),
    "negative": lambda kernels, a, x: aten.neg.default(a),
    "bounded": lambda kernels, a, x: aten.clamp.default(a, -0.5, 0.5),
    "exponential": lambda kernels, a, x: kernels.exp(a),
    "square root": lambda kernels, a, x: kernels.sqrt(a),
    "gelu": lambda kernels, a, x: kernels.gelu(a),
    "softmax": lambda kernels, a, x: kernels.softmax(a),
    "through a view": lambda kernels, a, x: aten.mul.Tensor(aten.view_copy.default(a, [-1, 10]), 3.0),
}
KEEPING = {
    "columns": lambda kernels, a, x: kernels.permuted(a, [1, 0]),
    "read again": lambda kernels, a, x: aten.add.Tensor(kernels.exp(a), a),
    "read again through a view": lambda kernels, a, x: aten.add.Tensor(
        aten.mul.Tensor(a, 2.0), aten.view_copy.default(aten.view_copy.default(a, [-1]), [ROWS, COLUMNS])
    ),
    "a row grows": lambda kernels, a, x: aten.add.Tensor(aten.mul.Tensor(a[:1], 2.0), x),
    "sum over rows": lambda kernels, a, x: aten.mul.Tensor(aten.sum.dim_IntList(a, [0], True), 2.0),
    "an input": lambda kernels, a, x: aten.add.Tensor(kernels.exp(x), aten.mul.Tensor(x, 2.0)),
}


class Operation(nn.Module):
    """A tensor that the program makes, and what an operator makes of it."""

    def __init__(self, kernels: nn.Module, operator) -> None:
        super().__init__()
        self.kernels, self._operator = kernels, operator

    def forward(self, x):
        return self._operator(self.kernels, aten.mul.Tensor(x, 0.7), x)


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
