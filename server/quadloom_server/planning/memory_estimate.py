"""How much memory a member needs on one device: the family's estimate, corrected by what that device went through."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quadloom_runtime.contract.manifest import Format, MemberSpec
from quadloom_server.planning.plan import peak_bytes, reserve_bytes

OUT_OF_MEMORY_EXCESS = 1.05
"""A step that ran out of memory is taken to need 5 % more than the limit: how much more it would need, nobody saw.

Above 1, so that members just below the failed one are not tried one after the other.
"""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a device's peaks are multiplied with, per format; 1 where nothing went wrong yet.

    A factor only grows. It belongs to the device as it is: with a new limit or a new runtime, start afresh.

    Attributes:
        rank: LoRA rank that is asked about, or at which the step was trained; None for the family's.
    """

    factors: Mapping[Format, float] = field(default_factory=dict)
    rank: int | None = None

    def needed_bytes(self, member: MemberSpec) -> int:
        """Memory that this device must be able to give to a member."""
        factor = self.factors.get(member.key.format, 1.0)
        return math.ceil(max(1, peak_bytes(member)) * factor) + reserve_bytes(member, rank=self.rank)


def after_out_of_memory(estimate: MemoryEstimate, member: MemberSpec, *, limit_bytes: int) -> MemoryEstimate:
    """The estimate once a step of `member` failed under this limit: the member does not fit it any more."""
    return _at_least(estimate, member, math.ceil(OUT_OF_MEMORY_EXCESS * limit_bytes))


def after_step(estimate: MemoryEstimate, member: MemberSpec, *, peak_bytes: int) -> MemoryEstimate:
    """The estimate once a step of `member` took `peak_bytes`; a smaller peak than expected changes nothing."""
    return _at_least(estimate, member, peak_bytes)


def _at_least(estimate: MemoryEstimate, member: MemberSpec, true_bytes: int) -> MemoryEstimate:
    if estimate.needed_bytes(member) >= true_bytes:
        return estimate
    factor = (true_bytes - reserve_bytes(member, rank=estimate.rank)) / max(1, peak_bytes(member))
    return replace(estimate, factors={**estimate.factors, member.key.format: factor})
