"""AdamW as an ExecuTorch method, so that a phone needs no optimizer of its own.

The method ``adamw`` updates a flat float32 vector of any length up to a limit. Nothing is carried from call to call:
state goes in and comes out. It computes element by element, so a caller may lay out the vector as it likes, and may
call it part by part where parts have learning rates of their own (the head has). The layout that goes with the
parameter table: rows in the table's order, each in row-major order. A member of depth d trains the end of it, from the
first row of its lowest trained layer; the head comes last.
"""

import math

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from quadloom_export.lowering.executorch import ArenaPlanner, assemble
from quadloom_runtime.contract.manifest import ParameterSpec, TensorSpec
from quadloom_runtime.optimizers import AdamW

METHOD = "adamw"
VECTORS = ("parameters", "gradient", "mean", "square")
SCALARS = ("step", "learning_rate", "weight_decay")


def lower_adamw(largest_length: int) -> bytes:
    """Content of a ``.pte`` file with the method ``adamw``, for vectors of up to `largest_length` elements.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    program = assemble({METHOD: exported_adamw(largest_length)}, {METHOD: ArenaPlanner()}, weights_tag=None)
    return bytes(program.buffer)


def exported_adamw(largest_length: int) -> ExportedProgram:
    """The method in PyTorch's form of export."""
    length = Dim("length", min=1, max=largest_length)
    # Each its own tensor: of one that is given twice, the trace would make one input.
    examples = [torch.zeros(largest_length) for _ in VECTORS] + [torch.ones(1) for _ in SCALARS]
    shapes = ({0: length},) * len(VECTORS) + (None,) * len(SCALARS)
    with torch.no_grad():
        return torch.export.export(_AdamW(), tuple(examples), dynamic_shapes=(shapes,), strict=False)


def flat_length(parameters: tuple[ParameterSpec, ...]) -> int:
    """Elements of the flat vector of all `parameters`."""
    return sum(math.prod(row.shape) for row in parameters)


def adamw_input_specs() -> tuple[TensorSpec, ...]:
    """Inputs in order; the length of the vectors is open, the others have one element each. `step` counts from 1."""
    vectors = tuple(TensorSpec(name=name, dtype="float32", shape=(None,)) for name in VECTORS)
    return vectors + tuple(TensorSpec(name=name, dtype="float32", shape=(1,)) for name in SCALARS)


def adamw_output_specs() -> tuple[TensorSpec, ...]:
    """Outputs in order: the new parameters, mean and square."""
    return tuple(TensorSpec(name=name, dtype="float32", shape=(None,)) for name in ("parameters", "mean", "square"))


class _AdamW(nn.Module):
    """The formulas of `quadloom_runtime.optimizers.AdamW`, with its constants."""

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parameters, gradient, mean, square, step, learning_rate, weight_decay = given
        beta1, beta2, epsilon = AdamW.beta1, AdamW.beta2, AdamW.epsilon
        mean = mean * beta1 + gradient * (1 - beta1)
        square = square * beta2 + gradient * gradient * (1 - beta2)
        denominator = torch.sqrt(square) / torch.sqrt(_correction(beta2, step)) + epsilon
        shrunk = parameters * (1 - learning_rate * weight_decay)
        moved = shrunk - mean / denominator * (learning_rate / _correction(beta1, step))
        return moved, mean, square


def _correction(beta: float, step: Tensor) -> Tensor:
    """``1 - beta ** step``; of the two, float32 can tell a small difference from none only by expm1."""
    return torch.neg(torch.expm1(step * math.log(beta)))
