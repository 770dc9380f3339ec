"""How much memory a member needs on one device: the family's estimate, corrected by what that device went through."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quadloom_runtime.contract.manifest import Format, MemberSpec
from quadloom_server.planning.member_memory import peak_bytes, reserve_bytes

OUT_OF_MEMORY_EXCESS = 1.05
"""A step that ran out of memory is taken to need 5 % more than the limit: how much more it would need, nobody saw.

Above 1, so that members just below the failed one are not tried one after the other.
"""


@dataclass(frozen=True)
class MemoryEstimate:
    """How a device's needs differ from what the family says, per format; not at all where nothing went wrong yet.

    Both only grow, and belong to the device for as long as it trains this family.

    Attributes:
        factors: what peaks are multiplied with, from members that ran out of memory.
        excess_bytes: what is added, from peaks that were measured: mostly what a process takes whatever it trains, so
            that a small member with a large excess says little about large ones.
        rank: LoRA rank that is asked about, or at which the step was trained; None for the family's.
    """

    factors: Mapping[Format, float] = field(default_factory=dict)
    excess_bytes: Mapping[Format, int] = field(default_factory=dict)
    rank: int | None = None

    def needed_bytes(self, member: MemberSpec) -> int:
        """Memory that this device must be able to give to a member."""
        return self._of_graph(member) + self._beside(member)

    def _of_graph(self, member: MemberSpec) -> int:
        return math.ceil(max(1, peak_bytes(member)) * self.factors.get(member.key.format, 1.0))

    def _beside(self, member: MemberSpec) -> int:
        return reserve_bytes(member, rank=self.rank) + self.excess_bytes.get(member.key.format, 0)


def after_out_of_memory(estimate: MemoryEstimate, member: MemberSpec, *, limit_bytes: int) -> MemoryEstimate:
    """The estimate once a step of `member` failed under this limit: the member does not fit it any more."""
    true_bytes = math.ceil(OUT_OF_MEMORY_EXCESS * limit_bytes)
    if estimate.needed_bytes(member) >= true_bytes:
        return estimate
    factor = (true_bytes - estimate._beside(member)) / max(1, peak_bytes(member))
    return replace(estimate, factors={**estimate.factors, member.key.format: factor})


def after_step(estimate: MemoryEstimate, member: MemberSpec, *, peak_bytes: int) -> MemoryEstimate:
    """The estimate once a step of `member` took `peak_bytes`; a smaller peak than expected changes nothing."""
    more = peak_bytes - estimate.needed_bytes(member)
    if more <= 0:
        return estimate
    excess = estimate.excess_bytes.get(member.key.format, 0) + more
    return replace(estimate, excess_bytes={**estimate.excess_bytes, member.key.format: excess})
