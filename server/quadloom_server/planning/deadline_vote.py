"""What each possible end of a round is worth, from what every device would do by it.

    worth(T) = sum over layers l of importance_l * coverage_l(T) ** coverage_power / T

coverage_l is the share of the fleet's examples on devices that train layer l. A second device on a layer helps less
than the first.

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
"""Relative difference below which two deadlines are worth the same: sums in another order differ in the last bits."""


@dataclass(frozen=True)
class Ballot:
    """What one device does by each possible deadline.

    Attributes:
        examples: of the device, its weight.
        depths: layers that it trains, 0 where it is not done in time.
        rank_shares: the rank at which it trains as a share of the family's.
    """

    examples: float
    depths: NDArray[np.int32]
    rank_shares: NDArray[np.float64]


class DeadlineVote:
    """The worth of every deadline.

    Args:
        times: possible deadlines in seconds, ascending.
        ballots: one for each device. Examples are whole numbers, so that taking a device off the sums again is exact.
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
        self._owned = np.zeros((len(times), len(self._importance)))
        for ballot in ballots:
            self._owned += self._owned_by(ballot)

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
        owned, examples = self._owned, self._examples
        if without is not None:
            left_out = self._ballots[without]
            owned, examples = owned - self._owned_by(left_out), examples - left_out.examples
        worth = (owned / examples) ** self._coverage_power @ self._importance
        per_second: NDArray[np.float64] = worth / np.maximum(self._times, SHORTEST_S)
        return per_second

    def _owned_by(self, ballot: Ballot) -> NDArray[np.float64]:
        """The examples of one device, by deadline and layer, where it trains the layer.

        With several ranks a layer has a place for each run of terms.
        """
        layers = np.arange(self._layers) >= self._layers - ballot.depths[:, None]
        terms = self._rank_shares <= ballot.rank_shares[:, None]
        trained = (layers[:, :, None] & terms[:, None, :]).reshape(len(self._times), -1)
        return np.where(trained, ballot.examples, 0.0)
