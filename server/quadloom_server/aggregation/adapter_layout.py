"""Which tensors of a parameter table are a LoRA pair, and the one place where LoRA's scale is applied.

An adapted weight is ``W + s B A`` with ``s = alpha / r``, r being the rank of the pair at hand: A is ``(r, inputs)``, B
``(outputs, r)``. Devices of different rank have different scales, so factors of two devices are comparable only with
the scale in them. `AdapterLayout.factors` multiplies it in, `AdapterLayout.tensors` takes it out again; nothing else
in this package knows alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.adapter_ranks import A_ENDING, B_ENDING
from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.factors import Factors

REMEDY = "export the family again; its parameter table must list lora_A and lora_B of every adapted module"


class UnpairedTensorError(QuadloomError):
    """A LoRA tensor without its other half, or with one that does not fit it."""


@dataclass(frozen=True)
class LoraPair:
    """One adapted weight matrix.

    Attributes:
        a, b: PEFT keys of the two tensors.
        layer: transformer layer, counted from the input.
    """

    a: str
    b: str
    layer: int


@dataclass(frozen=True)
class AdapterLayout:
    """What aggregation has to know about an adapter.

    Attributes:
        pairs: every adapted matrix, in the order of the parameter table.
        head: names of the tensors that are not LoRA.
        alpha: numerator of the scale, the same at every rank.
        ranks: what devices train at, rising; the last is that of the global adapter.
    """

    pairs: tuple[LoraPair, ...]
    head: tuple[str, ...]
    alpha: float
    ranks: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Rank of the global adapter."""
        return self.ranks[-1]

    def scale(self, rank: int) -> float:
        """``alpha / rank``."""
        return self.alpha / rank

    def pairs_in(self, tensors: Mapping[str, NDArray[np.floating[Any]]]) -> tuple[LoraPair, ...]:
        """The pairs that are among `tensors`, such as those that a device trained.

        Raises:
            UnpairedTensorError: one half of a pair is missing.
        """
        for pair in self.pairs:
            if (pair.a in tensors) != (pair.b in tensors):
                missing = pair.b if pair.a in tensors else pair.a
                raise UnpairedTensorError(f"{missing!r} is missing beside its other half", remedy="send both tensors")
        return tuple(pair for pair in self.pairs if pair.a in tensors)

    def factors(self, pair: LoraPair, tensors: Mapping[str, NDArray[np.floating[Any]]]) -> Factors:
        """``s B A`` as factors: left s B, right A, in float64. The rank is that of the tensors.

        Raises:
            UnpairedTensorError: A and B are of different rank.
        """
        a, b = tensors[pair.a], tensors[pair.b]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise UnpairedTensorError(
                f"{pair.a!r} has shape {list(a.shape)}, {pair.b!r} {list(b.shape)}: these are no factors of one rank",
                remedy="send A as [rank, inputs] and B as [outputs, rank]",
            )
        return Factors(b.astype(np.float64) * self.scale(a.shape[0]), a.astype(np.float64))

    def tensors(self, pair: LoraPair, factors: Factors) -> dict[str, FloatArray]:
        """The inverse of `factors`: A and B, float32, whose ``s B A`` is the product at the rank of its columns."""
        b = factors.left / self.scale(factors.columns)
        return {pair.a: factors.right.astype(np.float32), pair.b: b.astype(np.float32)}


def adapter_layout(table: Sequence[ParameterSpec], *, alpha: float, device_ranks: Sequence[int] = ()) -> AdapterLayout:
    """The layout of a family's adapter.

    Args:
        table: the family's parameter table.
        alpha: `LoraSpec.alpha`.
        device_ranks: ranks of devices, if some train at a lower one than the table's.

    Raises:
        UnpairedTensorError: a LoRA tensor without its other half, or of another name or rank.
        QuadloomError: a device's rank is not between 1 and the table's.
    """
    rows = {row.name: row for row in table if row.rank is not None}
    pairs = tuple(_pair(row, rows) for row in rows.values() if row.name.endswith(A_ENDING))
    unpaired = sorted(rows.keys() - {name for pair in pairs for name in (pair.a, pair.b)})
    if unpaired:
        raise UnpairedTensorError(
            f"{len(unpaired)} LoRA tensors have no other half, first {unpaired[0]!r}", remedy=REMEDY
        )
    found = {row.rank for row in rows.values() if row.rank is not None}
    if len(found) != 1:
        raise QuadloomError(f"the parameter table has the ranks {sorted(found)}", remedy="export with one LoRA rank")
    rank = found.pop()
    wrong = [each for each in device_ranks if not 1 <= each <= rank]
    if wrong:
        raise QuadloomError(f"devices of rank {wrong[0]} cannot train an adapter of rank {rank}", remedy="lower it")
    head = tuple(row.name for row in table if row.rank is None)
    return AdapterLayout(pairs, head, alpha, tuple(sorted({*device_ranks, rank})))


def _pair(row: ParameterSpec, rows: Mapping[str, ParameterSpec]) -> LoraPair:
    other = rows.get(row.name.removesuffix(A_ENDING) + B_ENDING)
    if other is None:
        raise UnpairedTensorError(f"{row.name!r} has no lora_B", remedy=REMEDY)
    if row.layer == "head" or other.layer != row.layer or other.rank != row.rank:
        raise UnpairedTensorError(f"{row.name!r} and {other.name!r} differ in layer or rank", remedy=REMEDY)
    return LoraPair(row.name, other.name, row.layer)
