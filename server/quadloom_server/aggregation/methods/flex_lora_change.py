"""FlexLoRA on changes: the global product, moved by the mean of what training changed in the devices' products.

    D = s B A + sum_k p_k (s_k B_k A_k - s_k B_k0 A_k0) = U S V^T,  p_k = w_k / sum of w over the pair's contributors
    A = diag(sqrt(S_r / s)) V_r^T,  B = U_r diag(sqrt(S_r / s))

B_k0 and A_k0 are what device k was given. What a device of low rank never saw is in neither of its products, so it
stays, where FlexLoRA takes the device's share of it away. With equal ranks and no truncation the two agree. An update
that started from an older adapter moves the newer one by what it learned, and does not pull it back. And both factors
share the singular values (`redistribution.redistributed`), where FlexLoRA's B has them all.
Ours, from FlexLoRA (arXiv 2402.11505) and the observation of collapsing ranks (arXiv 2602.13486).
"""

from dataclasses import dataclass
from typing import ClassVar

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.adapter_layout import AdapterLayout, LoraPair
from quadloom_server.aggregation.factors import Factors, stacked
from quadloom_server.aggregation.method import Parameters, TrainedUpdate
from quadloom_server.aggregation.methods.flex_lora import FlexLoraState
from quadloom_server.aggregation.product_mean import fold as fold_products
from quadloom_server.aggregation.product_mean import mean as product_mean
from quadloom_server.aggregation.redistribution import check_rank, nearest_at_rank, redistributed
from quadloom_server.aggregation.running_mean import apply, fold


@dataclass(frozen=True)
class FlexLoraChange:
    """See the module."""

    layout: AdapterLayout
    keeps_basis: ClassVar[bool] = False

    def begin(self) -> FlexLoraState:
        """Nothing summed."""
        return FlexLoraState()

    def fold(self, state: FlexLoraState, update: TrainedUpdate) -> FlexLoraState:
        """Add the head's change and the change of each trained product."""
        head = fold(state.head, update.change(self.layout.head), examples=update.weight)
        changes = {pair.b: self._change(pair, update) for pair in self.layout.pairs_in(update.trained)}
        return FlexLoraState(head, fold_products(state.products, changes, weight=update.weight))

    def finish(self, parameters: Parameters, state: FlexLoraState) -> dict[str, FloatArray]:
        """The moved products at the global rank, in place of the pairs that anybody trained."""
        found = apply(parameters, state.head)
        for pair in self.layout.pairs:
            change = product_mean(state.products, pair.b)
            if change is not None:
                moved = stacked([self.layout.factors(pair, parameters), change])
                found |= redistributed(
                    self.layout, pair, moved, rank=self.layout.rank, before=parameters, balanced=True
                )
        return found

    def at_rank(self, parameters: Parameters, rank: int) -> dict[str, FloatArray]:
        """The nearest adapter of this rank, and the head.

        Raises:
            WrongRankError: the rank is not between 1 and the adapter's.
        """
        return nearest_at_rank(self.layout, parameters, rank, balanced=True)

    def _change(self, pair: LoraPair, update: TrainedUpdate) -> Factors:
        trained = self.layout.factors(pair, update.trained)
        check_rank(self.layout, trained.columns)
        return stacked([trained, self.layout.factors(pair, update.start).scaled(-1)])
