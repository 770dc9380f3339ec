"""What each possible end of a round is worth, from what every device would do by it.

    worth(T) = sum over layers l of importance_l * coverage_l(T) ** coverage_power * steps_l(T) / T

coverage_l is the share of the fleet's examples on devices that train layer l. steps_l is how far the layer moves: the
mean of their steps as a share of the round's, 1 if all make those. A second device on a layer helps less than the
first, a second step in the same time as much. The mean is by the examples trained on, not by those held: with the
latter a device that has time for few steps would make every layer that it trains worth less.

Where devices train at different ranks, coverage is counted for each run of terms between two of these ranks, as a share
of the family's rank: up to share u they are worth u ** rank_power of the layer's importance together.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST_S = 1e-9
"""Keeps the worth finite where a round would take no time at all."""

EQUAL_WORTH = 1e-12
"""Relative difference below which two deadlines are worth the same: without transfers, half the steps are half."""


@dataclass(frozen=True)
class Ballot:
    """What one device does by each possible deadline.

    Attributes:
        examples: of the device, its weight.
        depths: layers that it trains, 0 where it is not done in time.
        step_shares: its steps as a share of the round's.
        rank_shares: the rank at which it trains as a share of the family's.
    """

    examples: float
    depths: NDArray[np.int32]
    step_shares: NDArray[np.float64]
    rank_shares: NDArray[np.float64]


class DeadlineVote:
    """The worth of every deadline.

    Args:
        times: possible deadlines in seconds, ascending.
        ballots: one for each device. Examples are whole numbers, so that taking a device off the sums again is exact
            where all make the round's steps.
        importance: of every layer, from the input to the output.
        coverage_power, rank_power: see the module.
    """

    def __init__(
        self,
        times: NDArray[np.float64],
        ballots: list[Ballot],
        importance: NDArray[np.float64],
        coverage_power: float,
        rank_power: float,
    ) -> None:
        self._times = times
        self._ballots = ballots
        self._layers = len(importance)
        self._rank_shares = np.unique(np.concatenate([each.rank_shares for each in ballots]))
        self._importance = np.outer(importance, np.diff(self._rank_shares**rank_power, prepend=0.0)).ravel()
        self._coverage_power = coverage_power
        self._examples = sum(each.examples for each in ballots)
        self._sums = np.zeros((3, len(times), len(self._importance)))
        for ballot in ballots:
            self._sums += self._sums_of(ballot)

    def best(self, proposed: NDArray[np.bool_], *, earliest_s: float, without: int | None = None) -> float:
        """The proposed deadline of most worth that is not before `earliest_s`; the later of two equal ones.

        Args:
            without: place of a ballot that does not count; a vote in which nobody is left has no deadline.
        """
        allowed = np.flatnonzero(proposed & (self._times >= earliest_s))
        if not len(allowed):
            return math.inf
        worth = self._worth(without)[allowed]
        return float(self._times[allowed[np.flatnonzero(worth >= (1 - EQUAL_WORTH) * worth.max())[-1]]])

    def _worth(self, without: int | None) -> NDArray[np.float64]:
        sums, examples = self._sums, self._examples
        if without is not None:
            sums, examples = sums - self._sums_of(self._ballots[without]), examples - self._ballots[without].examples
        owned, trained_on, weighted_steps = sums
        steps = np.divide(weighted_steps, trained_on, out=np.zeros_like(owned), where=trained_on > 0)
        worth = ((owned / examples) ** self._coverage_power * steps) @ self._importance
        per_second: NDArray[np.float64] = worth / np.maximum(self._times, SHORTEST_S)
        return per_second

    def _sums_of(self, ballot: Ballot) -> NDArray[np.float64]:
        """Of one device, by deadline and layer, where it trains the layer: examples, times its steps, times them again.

        With several ranks a layer has a place for each run of terms.
        """
        layers = np.arange(self._layers) >= self._layers - ballot.depths[:, None]
        terms = self._rank_shares <= ballot.rank_shares[:, None]
        trained = (layers[:, :, None] & terms[:, None, :]).reshape(len(self._times), -1)
        powers = np.stack([ballot.step_shares**power for power in range(3)])
        found: NDArray[np.float64] = np.where(trained, ballot.examples * powers[:, :, None], 0.0)
        return found
