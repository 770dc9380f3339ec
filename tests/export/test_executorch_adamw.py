"""The AdamW method, run by the plain runtime, against torch.optim.AdamW and the runtime's own in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from quadloom_export.lowering.executorch import save
from quadloom_export.lowering.executorch_adamw import (
    METHOD,
    adamw_input_specs,
    adamw_output_specs,
    flat_length,
    lower_adamw,
)
from quadloom_runtime.engines.executorch_adamw import ExecutorchAdamW
from quadloom_runtime.engines.executorch_method import ExecutorchMethod
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.optimizers import AdamW

pytest.importorskip("executorch")

SHAPES = {"layer.0.lora_A": (4, 7), "layer.0.lora_B": (7, 4), "layer.1.lora_A": (4, 7), "classifier.bias": (3,)}
RATES = {"layer.0.lora_A": 3e-3, "layer.0.lora_B": 3e-3, "layer.1.lora_A": 3e-3, "classifier.bias": 1e-2}
LONGEST = 100


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adamw") / "adamw.pte"
    save(lower_adamw(LONGEST), path)
    return path


def tensors(random: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_many_steps_equal_torch_and_numpy(program: Path, weight_decay: float, scale: float) -> None:
    random = np.random.default_rng(0)
    ours = tensors(random)
    numpys = dict(ours)
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in ours.items()}
    groups = [{"params": [value], "lr": RATES[name]} for name, value in theirs.items()]
    reference = torch.optim.AdamW(groups, weight_decay=weight_decay)
    optimizer, in_numpy = ExecutorchAdamW(program, weight_decay=weight_decay), AdamW(weight_decay=weight_decay)
    for _ in range(50):
        gradients = tensors(random, scale)
        optimizer.update(ours, gradients, RATES)
        in_numpy.update(numpys, gradients, RATES)
        for name, value in theirs.items():
            value.grad = torch.from_numpy(gradients[name].copy())
        reference.step()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value.detach().numpy(), rtol=0, atol=1e-6)
            np.testing.assert_allclose(ours[name], numpys[name], rtol=0, atol=1e-6)
    for name, value in in_numpy.state.items():
        np.testing.assert_allclose(optimizer.state[name], value, rtol=1e-5)


def test_either_optimizer_goes_on_from_the_state_of_the_other(program: Path) -> None:
    random = np.random.default_rng(1)
    start, gradients = tensors(random), [tensors(random) for _ in range(6)]
    straight, changed = dict(start), dict(start)
    whole, first, then = AdamW(weight_decay=0.1), ExecutorchAdamW(program, weight_decay=0.1), AdamW(weight_decay=0.1)
    for each in gradients:
        whole.update(straight, each, RATES)
    for each in gradients[:3]:
        first.update(changed, each, RATES)
    then.state.update(first.state)
    for each in gradients[3:]:
        then.update(changed, each, RATES)
    for name in SHAPES:
        np.testing.assert_allclose(changed[name], straight[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, LONGEST])
def test_a_vector_of_any_length_up_to_the_limit_is_updated_element_by_element(program: Path, length: int) -> None:
    method = ExecutorchMethod(program, None, method=METHOD, threads=1, label="adamw")
    random = np.random.default_rng(length)
    vectors = [random.standard_normal(length).astype(np.float32) for _ in range(4)]
    vectors[3] = abs(vectors[3])
    scalars = [np.asarray([value], np.float32) for value in (3, 1e-2, 0.1)]
    whole = method([*vectors, *scalars])
    assert [each.shape for each in whole] == [(length,)] * len(adamw_output_specs())
    assert len(vectors) + len(scalars) == len(adamw_input_specs())
    for index in {0, length - 1}:
        alone = method([*(each[index : index + 1] for each in vectors), *scalars])
        for vector, element in zip(whole, alone, strict=True):
            assert vector[index] == element[0]


def test_a_vector_that_is_too_long_is_refused(program: Path) -> None:
    gradients = {"w": np.ones(LONGEST + 1, np.float32)}
    with pytest.raises(QuadloomError, match="cannot run adamw"):
        ExecutorchAdamW(program).update({"w": np.ones(LONGEST + 1, np.float32)}, gradients, {"w": 1e-3})


def test_given_arrays_are_left_alone(program: Path) -> None:
    given = tensors(np.random.default_rng(2))
    before, parameters = {name: value.copy() for name, value in given.items()}, dict(given)
    ExecutorchAdamW(program).update(parameters, tensors(np.random.default_rng(3)), RATES)
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)
        assert (parameters[name] != value).any()


def test_the_trained_rows_of_every_depth_are_the_end_of_the_flat_vector(tiny) -> None:
    rows = tiny.model.parameters
    assert flat_length(rows) == sum(value.numel() for value in tiny.model.trainable.values())
    for depth in range(4):
        trained = [row.layer == "head" or row.layer >= 3 - depth for row in rows]
        assert trained == sorted(trained), "what a depth trains must be one piece at the end"
