"""Zero padding: A and B averaged apart, those of lower rank filled up with zeros.

    A = sum_k p_k pad(A_k),  s B = sum_k p_k pad(s_k B_k),  p_k = w_k / sum of w over the pair's contributors

A device of rank r gets the first r terms. Terms that few devices hold are averaged with zeros of the others, so they
shrink from round to round, and are gone for good after a round in which no device holds them. The scale is averaged
with B, since it differs with the rank.
The baseline that HetLoRA, arXiv 2401.06432, starts from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.adapter_layout import AdapterLayout
from quadloom_server.aggregation.factors import Factors, padded
from quadloom_server.aggregation.method import Parameters, TrainedUpdate
from quadloom_server.aggregation.redistribution import check_rank, first_terms
from quadloom_server.aggregation.running_mean import RunningMean, apply, fold, mean


@dataclass(frozen=True)
class PaddedMean:
    """Running means of the head's changes, and of the padded factors ``s B`` and ``A`` under the names of B and A."""

    head: RunningMean = field(default_factory=RunningMean)
    factors: RunningMean = field(default_factory=RunningMean)


def _equal(_: Factors) -> float:
    return 1.0


@dataclass(frozen=True)
class ZeroPadding:
    """See the module.

    Attributes:
        importance: what a pair's weight is multiplied with, given its factors; a pair of importance 0 does not count.
    """

    layout: AdapterLayout
    importance: Callable[[Factors], float] = _equal
    keeps_basis: ClassVar[bool] = True

    def begin(self) -> PaddedMean:
        """Nothing summed."""
        return PaddedMean()

    def fold(self, state: PaddedMean, update: TrainedUpdate) -> PaddedMean:
        """Add the head's change, and each trained pair at the full rank."""
        head = fold(state.head, update.change(self.layout.head), examples=update.weight)
        factors = state.factors
        for pair in self.layout.pairs_in(update.trained):
            trained = self.layout.factors(pair, update.trained)
            check_rank(self.layout, trained.columns)
            weight = update.weight * self.importance(trained)
            if weight > 0:
                full = padded(trained, self.layout.rank)
                factors = fold(factors, {pair.b: full.left, pair.a: full.right}, examples=weight)
        return PaddedMean(head, factors)

    def finish(self, parameters: Parameters, state: PaddedMean) -> dict[str, FloatArray]:
        """The means, in place of the pairs that anybody trained."""
        found = apply(parameters, state.head)
        for pair in self.layout.pairs:
            left, right = mean(state.factors, pair.b), mean(state.factors, pair.a)
            if left is not None and right is not None:
                found |= self.layout.tensors(pair, Factors(left, right))
        return found

    def at_rank(self, parameters: Parameters, rank: int) -> dict[str, FloatArray]:
        """The first `rank` terms of each pair, and the head.

        Raises:
            WrongRankError: the rank is not between 1 and the adapter's.
        """
        return first_terms(self.layout, parameters, rank)
