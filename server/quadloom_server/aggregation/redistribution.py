"""The adapter at another rank: the nearest matrix of that rank, whose terms fall in size, or its first terms."""

from typing import Final

import numpy as np

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.adapter_layout import AdapterLayout, LoraPair
from quadloom_server.aggregation.factors import Factors, decompose
from quadloom_server.aggregation.method import Parameters, WrongRankError

SMALLEST_SHARE: Final = 1e-4
"""Terms below this share of the largest get a row of A as if they had it: with both short they would hardly learn."""


def redistributed(
    layout: AdapterLayout, pair: LoraPair, product: Factors, *, rank: int, before: Parameters, balanced: bool = False
) -> dict[str, FloatArray]:
    """A = V_r^T and B = U_r diag(S_r) / s of ``product = U S V^T``, float32.

    Balanced, each term's row of A and column of B have the same norm, sqrt(S_i / s), as PiSSA (arXiv 2404.02948) splits
    its singular values. The product is the same, but not how an optimizer such as AdamW goes on from it, which moves
    large and small entries by as much.

    Above the product's own rank B is zero and A keeps its row of `before`. With both at zero neither would have a
    gradient, so a term that is empty once, such as every term of a fresh adapter, could never be trained.

    Args:
        layout: which tensors, which scale.
        pair: the pair that the product belongs to.
        product: ``s B A``, the scale in it.
        rank: wanted rank.
        before: holds A of at least `rank` rows.
        balanced: see above.
    """
    found = decompose(product)
    nearest = found.truncated(rank)
    if balanced:
        nearest = _balanced(nearest, scale=layout.scale(rank))
    tensors = layout.tensors(pair, nearest)
    tensors[pair.a][found.rank :] = before[pair.a][min(found.rank, rank) : rank]
    return tensors


def nearest_at_rank(
    layout: AdapterLayout, parameters: Parameters, rank: int, *, balanced: bool = False
) -> dict[str, FloatArray]:
    """The global adapter as near as a device of this rank can hold it, and the head; `balanced` as in `redistributed`.

    Raises:
        WrongRankError: the rank is not between 1 and that of the adapter.
    """
    check_rank(layout, rank)
    found = dict(parameters)
    for pair in layout.pairs_in(parameters):
        product = layout.factors(pair, parameters)
        found |= redistributed(layout, pair, product, rank=rank, before=parameters, balanced=balanced)
    return found


def first_terms(layout: AdapterLayout, parameters: Parameters, rank: int) -> dict[str, FloatArray]:
    """The first `rank` terms of each pair, and the head; for methods by which a term stays what it is.

    Raises:
        WrongRankError: the rank is not between 1 and that of the adapter.
    """
    check_rank(layout, rank)
    found = dict(parameters)
    if rank < layout.rank:
        for pair in layout.pairs_in(parameters):
            found |= layout.tensors(pair, layout.factors(pair, parameters).terms(0, rank))
    return found


def _balanced(factors: Factors, *, scale: float) -> Factors:
    """The same terms, with columns of ``left / scale`` that are as long as rows of right, which come with length 1."""
    values = np.linalg.norm(factors.left, axis=0) / scale
    lengths = np.sqrt(np.maximum(values, SMALLEST_SHARE * values.max(initial=0.0)))
    lengths[lengths == 0] = 1.0
    return Factors(factors.left / lengths, factors.right * lengths[:, None])


def check_rank(layout: AdapterLayout, rank: int) -> None:
    """Refuse a rank that the adapter does not have.

    Raises:
        WrongRankError: the rank is not between 1 and that of the adapter.
    """
    if not 1 <= rank <= layout.rank:
        raise WrongRankError(f"rank {rank} of an adapter of rank {layout.rank}", remedy=f"choose 1 to {layout.rank}")
