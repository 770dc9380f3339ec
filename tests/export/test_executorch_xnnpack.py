"""Programs that let XNNPACK compute, on the plain runtime, against PyTorch and the portable programs."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("executorch")

from quadloom_export.lowering import executorch_xnnpack
from quadloom_export.lowering.executorch import (
    ExecutorchMember,
    input_specs,
    lower_to_executorch,
    output_specs,
    save,
    weights_file,
)
from quadloom_export.lowering.executorch_kernels import PortableKernels, run_on_shapes
from quadloom_export.lowering.executorch_xnnpack import XnnpackKernels
from quadloom_runtime.engines.engine import Batch, StepResult
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine

DEPTH = 1
BATCH_SIZE = 8
CASES = {
    "columns": ((6, 5, 7), lambda kernels, x: kernels.permuted(x, [0, 2, 1])),
    "heads": ((2, 3, 4, 5), lambda kernels, x: kernels.permuted(x, [0, 2, 1, 3])),
    "softmax": ((4, 3, 20), lambda kernels, x: kernels.softmax(20 * x)),
    "gelu": ((31, 3), lambda kernels, x: kernels.gelu(3 * x)),
    "exponential": ((31, 3), lambda kernels, x: kernels.exp(x)),
    "square root": ((31, 3), lambda kernels, x: kernels.sqrt(x.abs())),
    "int8": ((31, 3), lambda kernels, x: kernels.rounded_to_int8(torch.clamp(60 * x, -128, 127))),
    "largest of columns": ((9, 35), lambda kernels, x: kernels.column_maximum(x)),
    "smallest of columns": ((2, 35), lambda kernels, x: kernels.column_minimum(x)),
    "largest of one row": ((1, 35), lambda kernels, x: kernels.column_maximum(x)),
    "int8 of a fixed scale": ((31, 3), lambda kernels, x: kernels.rounded_to_int8(x, 1 / 64, -12)),
    "int8 of a fixed scale and back": (
        (31, 3),
        lambda kernels, x: kernels.to_float32(kernels.rounded_to_int8(x, 1 / 64, -12), 1 / 64, -12),
    ),
    "int8 and back": ((31, 3), lambda kernels, x: kernels.to_float32(kernels.rounded_to_int8(60 * x))),
}


@pytest.fixture(scope="module", autouse=True)
def delegate_tiny_tensors():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executorch_xnnpack, "FEWEST_ELEMENTS", 1)
        yield


class Called(nn.Module):
    def __init__(self, kernels: nn.Module, function) -> None:
        super().__init__()
        self.kernels, self._function = kernels, function

    def forward(self, x):
        return self._function(self.kernels, x)


def run_program(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Lower the module alone, and run it."""
    from executorch.exir import EdgeCompileConfig, to_edge
    from executorch.extension.pybindings import portable_lib

    edge = to_edge(
        torch.export.export(module, (x,), strict=False), compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    program = edge.to_executorch().buffer
    loaded = portable_lib._load_for_executorch_from_buffer(program)  # reads the buffer wherever it lies
    (found,) = loaded.forward([x])
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [PortableKernels, XnnpackKernels])
def test_each_kernel_computes_what_pytorch_does(make, name):
    shape, function = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    module = Called(make(), function)
    expected = module(x)  # nothing is made ready yet: ATen's own operators
    run_on_shapes(module, (x,))
    module.kernels.make_ready()
    found = run_program(module, x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [PortableKernels, XnnpackKernels])
def test_what_lies_between_two_whole_numbers_is_rounded_to_the_even_one(make):
    x = torch.arange(-255, 255, dtype=torch.float32).reshape(-1, 2) / 2
    module = Called(make(), lambda kernels, x: kernels.rounded_to_int8(x))
    run_on_shapes(module, (x,))
    module.kernels.make_ready()
    assert torch.equal(run_program(module, x), torch.round(x).to(torch.int8))


@cache
def lowered(tiny, quantized_layers: int, backend: str) -> ExecutorchMember:
    return lower_to_executorch(tiny.member(DEPTH, quantized_layers), backend=backend)


def step(tiny, quantized_layers: int, backend: str, folder: Path) -> StepResult:
    graph, program, weights = tiny.member(DEPTH, quantized_layers), folder / f"{backend}.pte", folder / "weights.ptd"
    save(lowered(tiny, quantized_layers, backend).program, program)
    save(weights_file(tiny.training), weights)
    specs = {"inputs": input_specs(graph), "outputs": output_specs(graph)}
    engine = ExecutorchTrainingEngine(program, weights, **specs, label=backend)
    parameters = {name: value.numpy() for name, value in tiny.parameters().items()}
    batch = {name: value.numpy() for name, value in tiny.batch(BATCH_SIZE).items()}
    batch.setdefault("token_type_ids", np.zeros_like(batch["input_ids"]))
    return engine.step(parameters, Batch(**batch))


def plan_of(member: ExecutorchMember):
    from executorch.exir._serialize._program import deserialize_pte_binary

    (plan,) = deserialize_pte_binary(member.program).program.execution_plan
    return plan


def weights_in(plan) -> set[str]:
    infos = [getattr(value.val, "extra_tensor_info", None) for value in plan.values]
    return {info.fully_qualified_name for info in infos if info is not None and info.fully_qualified_name}


@pytest.mark.parametrize("quantized_layers", [0, DEPTH])
def test_a_member_has_the_gradients_of_the_portable_program(bert, quantized_layers, tmp_path):
    expected = step(bert, quantized_layers, "portable", tmp_path)
    found = step(bert, quantized_layers, "xnnpack", tmp_path)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    # A value on the edge between two numbers of the stash may fall on either side.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if quantized_layers == 0 else {"rtol": 1e-2, "atol": 1e-4}
    for name, gradient in expected.gradients.items():
        np.testing.assert_allclose(found.gradients[name], gradient, **tolerance, err_msg=name)


def test_an_unquantized_member_has_the_gradients_of_pytorch(bert, tmp_path):
    parameters, batch = bert.parameters(), bert.batch(BATCH_SIZE)
    expected = bert.eager(parameters, batch)
    found = step(bert, 0, "xnnpack", tmp_path)
    for name, gradient in found.gradients.items():
        np.testing.assert_allclose(gradient, expected.gradients[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("quantized_layers", [0, DEPTH])
def test_delegating_takes_no_more_memory_and_leaves_the_weights_where_they_are(bert, quantized_layers):
    portable, delegated = (lowered(bert, quantized_layers, backend) for backend in ("portable", "xnnpack"))
    assert {each.id for each in plan_of(delegated).delegates} == {"XnnpackBackend"}
    assert not plan_of(portable).delegates
    assert delegated.arena_bytes <= 1.01 * portable.arena_bytes
    assert delegated.arena_bytes <= 1.01 * delegated.arena_lower_bound_bytes
    assert weights_in(plan_of(delegated)) == weights_in(plan_of(portable))
