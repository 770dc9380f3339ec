"""What the server makes of an aggregate: a step along the pseudo-gradient ``d = aggregate - parameters``.

Reddi et al., Adaptive Federated Optimization, arXiv 2003.00295, algorithms 1 and 2; momentum is that of Hsu et al.,
arXiv 1909.06335.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.method import Aggregation, Parameters


@dataclass(frozen=True)
class Moments:
    """What a rule keeps from round to round, per tensor that any round has changed, float64: of d and of d^2."""

    mean: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    square: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class ServerOptimizer(Protocol):
    """A rule for the server's step. Pure: the moments go in and come out. A run begins with none.

    A tensor that a round leaves as it is, since nobody trained it, is left alone with its moments: its old momentum is
    no reason to move it. Of a tensor that the round changed every entry is moved, those too that only devices of higher
    ranks hold, none of which took part.
    """

    def step(
        self, moments: Moments, parameters: Parameters, aggregate: Parameters, *, round_index: int
    ) -> tuple[dict[str, FloatArray], Moments]:
        """The next parameters and moments.

        Args:
            moments: of the rounds before, left as they are.
            parameters: the global parameters before the round.
            aggregate: what a method made of them and the round's updates.
            round_index: 1 in the first round.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FedAvgStep:
    """``x + rate d / sqrt(1 + round / decay_rounds)``; with rate 1 and no decay the aggregate itself, bit by bit.

    It has no moments. The decay is that of stochastic gradient descent whose end is not known.

    Attributes:
        decay_rounds: of which three make the rate half of what it was; None for no decay.
    """

    rate: float = 1.0
    decay_rounds: float | None = None

    def step(
        self, moments: Moments, parameters: Parameters, aggregate: Parameters, *, round_index: int
    ) -> tuple[dict[str, FloatArray], Moments]:
        """One step."""
        if self == FedAvgStep():
            return dict(aggregate), moments
        rate = self.rate if self.decay_rounds is None else self.rate / math.sqrt(1 + round_index / self.decay_rounds)
        changes = _changes(parameters, aggregate)
        return _moved(parameters, {name: rate * change for name, change in changes.items()}), moments


@dataclass(frozen=True, kw_only=True)
class FedAvgMomentum:
    """Momentum on the server: ``v = momentum v + d,  x = x + rate v``, v starting at 0.

    Rounds of few devices differ in what they pull towards; over several rounds those differences cancel, and what all
    rounds agree on adds up, to ``rate / (1 - momentum)`` times a round's change.
    """

    rate: float = 0.4
    momentum: float = 0.8

    def step(
        self, moments: Moments, parameters: Parameters, aggregate: Parameters, *, round_index: int
    ) -> tuple[dict[str, FloatArray], Moments]:
        """One step."""
        del round_index
        velocity = {
            name: self.momentum * moments.mean.get(name, np.zeros_like(change)) + change
            for name, change in _changes(parameters, aggregate).items()
        }
        moved = _moved(parameters, {name: self.rate * value for name, value in velocity.items()})
        return moved, Moments(mean={**moments.mean, **velocity})


@dataclass(frozen=True, kw_only=True)
class FedAdam:
    """Adam on the server, without bias correction, as the paper has it:

        m = beta1 m + (1 - beta1) d,  v = beta2 v + (1 - beta2) d^2,  x = x + rate m / (sqrt(v) + tau)

    m starts at 0 and v at tau^2.

    Attributes:
        rate: the server's learning rate.
        tau: how adaptive it is; the smaller, the more steps are alike in size.
    """

    rate: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def step(
        self, moments: Moments, parameters: Parameters, aggregate: Parameters, *, round_index: int
    ) -> tuple[dict[str, FloatArray], Moments]:
        """One step."""
        del round_index
        steps, means, squares = {}, dict(moments.mean), dict(moments.square)
        for name, change in _changes(parameters, aggregate).items():
            mean = self.beta1 * means.get(name, np.zeros_like(change)) + (1 - self.beta1) * change
            square = self.beta2 * squares.get(name, np.full_like(change, self.tau**2)) + (1 - self.beta2) * change**2
            steps[name] = self.rate * mean / (np.sqrt(square) + self.tau)
            means[name], squares[name] = mean, square
        return _moved(parameters, steps), Moments(means, squares)


SERVER_OPTIMIZERS: Mapping[str, Callable[..., ServerOptimizer]] = {
    "fedavg": FedAvgStep,
    "fedavg-momentum": FedAvgMomentum,
    "fedadam": FedAdam,
}


def server_optimizer(name: str, *, rate: float | None, decay_rounds: float | None) -> ServerOptimizer:
    """The rule of this name.

    Args:
        rate: None for the rule's own.
        decay_rounds: of FedAvg's step alone.

    Raises:
        QuadloomError: there is no such rule, or it does not take these.
    """
    if name not in SERVER_OPTIMIZERS:
        raise QuadloomError(
            f"the server optimizer {name!r} does not exist", remedy=f"choose from: {', '.join(SERVER_OPTIMIZERS)}"
        )
    if decay_rounds is not None and name != "fedavg":
        raise QuadloomError(
            f"the server optimizer {name} has no decay, and server_decay_rounds is {decay_rounds:g}",
            remedy="leave server_decay_rounds out, or use fedavg",
        )
    given = {"rate": rate, "decay_rounds": decay_rounds}
    return SERVER_OPTIMIZERS[name](**{key: value for key, value in given.items() if value is not None})


def _changes(parameters: Parameters, aggregate: Parameters) -> dict[str, NDArray[np.float64]]:
    """d, of the tensors that the round changed."""
    changes = {name: aggregate[name].astype(np.float64) - value for name, value in parameters.items()}
    return {name: change for name, change in changes.items() if change.any()}


def _moved(parameters: Parameters, steps: Mapping[str, NDArray[np.float64]]) -> dict[str, FloatArray]:
    return {
        name: (value + steps[name]).astype(np.float32) if name in steps else value for name, value in parameters.items()
    }


def check_combination(optimizer: ServerOptimizer, method: Aggregation[Any], *, mean_share: float = 0.0) -> None:
    """Refuse what compares or adds up entries of A and B across rounds between which the method turns them.

    Args:
        mean_share: of all rounds, over which the parameters are averaged, see `recent_mean.py`.

    Raises:
        QuadloomError: they do not go together.
    """
    if not method.keeps_basis and mean_share > 0:
        raise QuadloomError(
            f"{type(method).__name__} gives A and B in a new basis each round, so a mean over {mean_share:g} of all "
            "rounds would add up entries that mean different things",
            remedy="use no mean of rounds, or a method that averages A and B",
        )
    if not method.keeps_basis and optimizer != FedAvgStep():
        raise QuadloomError(
            f"{type(method).__name__} gives A and B in a new basis each round, so {optimizer} would add up entries "
            "that mean different things",
            remedy="use the server optimizer FedAvg with rate 1, or a method that averages A and B",
        )
