from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.optimizers import AdamW, clip_by_global_norm, global_norm, make_optimizer, scheduled

SHAPES = {"lora_A": (4, 7), "lora_B": (7, 4), "head": (3,)}
RATES = {"lora_A": 3e-3, "lora_B": 3e-3, "head": 1e-2}


def random_tensors(random: np.random.Generator, scale: float = 1.0) -> dict[str, FloatArray]:
    return {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def torch_optimizer(name: str, parameters: dict[str, torch.Tensor], *, weight_decay: float) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": [value], "lr": RATES[key]} for key, value in parameters.items()]
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
    return kind(groups, weight_decay=weight_decay)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_many_steps_equal_torch(name: Any, weight_decay: float, scale: float) -> None:
    random = np.random.default_rng(0)
    ours = random_tensors(random)
    theirs = {key: torch.nn.Parameter(torch.from_numpy(value.copy())) for key, value in ours.items()}
    optimizer = make_optimizer(name, weight_decay=weight_decay)
    reference = torch_optimizer(name, dict(theirs), weight_decay=weight_decay)
    for _ in range(50):
        gradients = random_tensors(random, scale)
        optimizer.update(ours, gradients, RATES)
        for key, value in theirs.items():
            value.grad = torch.from_numpy(gradients[key].copy())
        reference.step()
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value.detach().numpy(), rtol=1e-6, atol=1e-6 * max(1.0, scale * 1e-2))


def test_going_on_from_stored_state_equals_never_having_stopped() -> None:
    random = np.random.default_rng(1)
    start, gradients = random_tensors(random), [random_tensors(random) for _ in range(6)]
    straight, halted = dict(start), dict(start)
    whole, before = AdamW(weight_decay=0.1), AdamW(weight_decay=0.1)
    for each in gradients:
        whole.update(straight, each, RATES)
    for each in gradients[:3]:
        before.update(halted, each, RATES)
    after = AdamW(weight_decay=0.1, state={name: value.copy() for name, value in before.state.items()})
    for each in gradients[3:]:
        after.update(halted, each, RATES)
    for name in SHAPES:
        assert (straight[name] == halted[name]).all()


def test_only_tensors_with_a_gradient_move_and_arrays_are_left_alone() -> None:
    random = np.random.default_rng(2)
    parameters = random_tensors(random)
    before = {name: value.copy() for name, value in parameters.items()}
    given_arrays = dict(parameters)
    AdamW(weight_decay=0.1).update(parameters, {"head": np.ones(3, np.float32)}, RATES)
    assert (parameters["lora_A"] == before["lora_A"]).all()
    assert (parameters["head"] != before["head"]).all()
    assert (given_arrays["head"] == before["head"]).all(), "the caller's global model must not change under it"


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e6])
def test_clipping_equals_torch(limit: float) -> None:
    gradients = random_tensors(np.random.default_rng(3))
    theirs = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for parameter, name in zip(theirs, SHAPES, strict=True):
        parameter.grad = torch.from_numpy(gradients[name].copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    assert global_norm(gradients) == pytest.approx(float(norm), rel=1e-6)
    for parameter, value in zip(theirs, clip_by_global_norm(gradients, limit).values(), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(value, parameter.grad.numpy(), rtol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_a_clipped_norm_never_exceeds_its_limit(values: list[float], limit: float) -> None:
    clipped = clip_by_global_norm({"g": np.asarray(values, np.float32)}, limit)
    assert global_norm(clipped) <= limit * (1 + 1e-5)


def test_the_linear_schedule_falls_from_the_full_rate_towards_zero_as_in_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    reference = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 8)
    for step in range(8):
        assert scheduled(0.2, "linear", step=step, steps=8) == pytest.approx(reference.get_last_lr()[0])
        assert scheduled(0.2, "constant", step=step, steps=8) == 0.2
        optimizer.step()
        reference.step()
