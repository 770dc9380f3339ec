"""Federated averaging of A and B, every tensor over the devices that trained it.

    A + sum_k p_k (A_k - A_k0),  s B + sum_k p_k (s_k B_k - s_k B_k0),  p_k = w_k / sum of w over the contributors

McMahan et al., arXiv 1602.05629; by layer, it is the depth-aware mean for devices that train the last layers only. The
mean of A times the mean of B is not the mean of the products.
A device of a lower rank gets the first terms of each pair, and trains and sends these: so there is a mean for every
term, over the devices that hold it, where zero padding shrinks the terms that few hold. With one rank it is plain
averaging. This part is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.adapter_layout import AdapterLayout
from quadloom_server.aggregation.factors import padded
from quadloom_server.aggregation.method import Parameters, TrainedUpdate
from quadloom_server.aggregation.redistribution import check_rank, first_terms
from quadloom_server.aggregation.running_mean import RunningMean, apply, fold


@dataclass(frozen=True)
class FedAvg:
    """See the module."""

    layout: AdapterLayout
    keeps_basis: ClassVar[bool] = True

    def begin(self) -> RunningMean:
        """Nothing summed."""
        return RunningMean()

    def fold(self, state: RunningMean, update: TrainedUpdate) -> RunningMean:
        """Add the change of every tensor, of a lower rank that of its terms.

        Raises:
            WrongRankError: the update's rank is above the adapter's.
        """
        changes = update.change(update.trained)
        parts: dict[str, NDArray[np.bool_]] = {}
        for pair in self.layout.pairs_in(update.trained):
            trained, start = (self.layout.factors(pair, each) for each in (update.trained, update.start))
            if trained.columns == self.layout.rank:
                continue
            check_rank(self.layout, trained.columns)
            after, before = padded(trained, self.layout.rank), padded(start, self.layout.rank)
            changes[pair.a] = after.right - before.right
            changes[pair.b] = (after.left - before.left) / self.layout.scale(self.layout.rank)
            held = np.arange(self.layout.rank) < trained.columns
            parts |= {pair.a: held[:, None], pair.b: held[None, :]}
        return fold(state, changes, examples=update.weight, parts=parts)

    def finish(self, parameters: Parameters, state: RunningMean) -> dict[str, FloatArray]:
        """Every tensor moved by the mean of its changes."""
        return apply(parameters, state)

    def at_rank(self, parameters: Parameters, rank: int) -> dict[str, FloatArray]:
        """The first `rank` terms of each pair, and the head.

        Raises:
            WrongRankError: the rank is not between 1 and the adapter's.
        """
        return first_terms(self.layout, parameters, rank)
