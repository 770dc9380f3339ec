"""AdamW and SGD in numpy, equal to torch's formulas; state is plain arrays, so that it can be stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from quadloom_runtime.engines.engine import FloatArray

Schedule = Literal["constant", "linear"]


class Optimizer(Protocol):
    """Replaces values of `parameters` by better ones; the arrays themselves are left alone."""

    state: dict[str, FloatArray]

    def update(
        self, parameters: dict[str, FloatArray], gradients: Mapping[str, FloatArray], rates: Mapping[str, float]
    ) -> None:
        """One step over the tensors that have a gradient; `rates` holds the learning rate per tensor."""
        ...


@dataclass
class Sgd:
    """Plain stochastic gradient descent as `torch.optim.SGD` computes it. It has no state."""

    weight_decay: float = 0.0
    state: dict[str, FloatArray] = field(default_factory=dict)

    def update(
        self, parameters: dict[str, FloatArray], gradients: Mapping[str, FloatArray], rates: Mapping[str, float]
    ) -> None:
        """``p -= rate (g + weight_decay p)``."""
        for name, gradient in gradients.items():
            direction = gradient + np.float32(self.weight_decay) * parameters[name]
            parameters[name] = (parameters[name] - np.float32(rates[name]) * direction).astype(np.float32)


@dataclass
class AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as `torch.optim.AdamW` computes it.

    State per tensor: ``<name>/mean`` and ``<name>/square``; for all tensors ``step``, float32 ``(1,)``.
    """

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    state: dict[str, FloatArray] = field(default_factory=dict)

    def update(
        self, parameters: dict[str, FloatArray], gradients: Mapping[str, FloatArray], rates: Mapping[str, float]
    ) -> None:
        """``p -= rate weight_decay p + rate mean' / (sqrt(square') + epsilon)``, primes being bias-corrected."""
        step = int(self.state.get("step", np.zeros(1, np.float32))[0]) + 1
        self.state["step"] = np.asarray([step], dtype=np.float32)
        mean_correction, square_correction = 1 - self.beta1**step, 1 - self.beta2**step
        for name, gradient in gradients.items():
            zeros = np.zeros_like(gradient)
            mean = np.float32(self.beta1) * self.state.get(f"{name}/mean", zeros)
            mean = mean + np.float32(1 - self.beta1) * gradient
            square = np.float32(self.beta2) * self.state.get(f"{name}/square", zeros)
            square = square + np.float32(1 - self.beta2) * gradient * gradient
            self.state[f"{name}/mean"], self.state[f"{name}/square"] = mean, square
            rate = rates[name]
            shrunk = parameters[name] * np.float32(1 - rate * self.weight_decay)
            denominator = np.sqrt(square) / np.float32(square_correction**0.5) + np.float32(self.epsilon)
            parameters[name] = shrunk - np.float32(rate / mean_correction) * mean / denominator


def make_optimizer(name: Literal["adamw", "sgd"], *, weight_decay: float) -> Optimizer:
    """The optimizer of a task's settings, with fresh state."""
    return AdamW(weight_decay=weight_decay) if name == "adamw" else Sgd(weight_decay=weight_decay)


def global_norm(gradients: Mapping[str, FloatArray]) -> float:
    """L2 norm over all tensors together."""
    return float(np.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in gradients.values())))


def clip_by_global_norm(gradients: Mapping[str, FloatArray], limit: float) -> dict[str, FloatArray]:
    """Scale all gradients so that their common norm is at most `limit`, as `torch.nn.utils.clip_grad_norm_` does."""
    factor = np.float32(min(1.0, limit / (global_norm(gradients) + 1e-6)))
    return {name: each * factor for name, each in gradients.items()}


def scheduled(rate: float, schedule: Schedule, *, step: int, steps: int) -> float:
    """Learning rate of the 0-based `step` of `steps`: constant, or falling in a line that reaches zero at `steps`."""
    return rate if schedule == "constant" else rate * (1 - step / steps)
