"""How much memory a member needs, as the family says: what no device has corrected yet."""

import math
from collections.abc import Sequence

from quadloom_runtime.adapter_ranks import A_ENDING, B_ENDING
from quadloom_runtime.contract.manifest import GRADIENT_PREFIX, MemberKey, MemberSpec, TensorSpec

PLANNED_PEAK_SAFETY = 1.1
"""What a planned peak is multiplied with: measured peaks lie a few percent above the plan (`quadloom bench memory`)."""
BYTES_PER_VALUE = 4
RESERVE_BYTES = 4_000_000
"""What training takes beside the graph and its trained tensors: batch, messages, slack of the allocators."""
COPIES_IN_TRAINING = 8
"""Of the trained tensors: their values and AdamW's two moments, once more in a checkpoint that is written, and the
gradients as they came and clipped."""
COPIES_WHERE_PADDED = 2
"""More of them, at the family's rank, where a device trains at a lower one: what the graph is given and gives."""


def needed_bytes(member: MemberSpec, *, rank: int | None = None) -> int:
    """Memory that a device must be able to give: the step's peak and what training takes beside it.

    Args:
        rank: LoRA rank at which it trains, None for the family's.
    """
    return peak_bytes(member) + reserve_bytes(member, rank=rank)


def peak_bytes(member: MemberSpec) -> int:
    """Peak of one step, measured, or planned plus safety."""
    if member.measured_peak_bytes is not None:
        return member.measured_peak_bytes
    return math.ceil(member.planned_peak_bytes * PLANNED_PEAK_SAFETY)


def reserve_bytes(member: MemberSpec, *, rank: int | None = None) -> int:
    """What training takes beside the graph; `rank` as in `needed_bytes`."""
    gradients = [each for each in member.outputs if each.name.startswith(GRADIENT_PREFIX)]
    of_graph = sum(_values(each) for each in gradients)
    trained = of_graph if rank is None else sum(_values_at_rank(each, rank) for each in gradients)
    copies = COPIES_IN_TRAINING * trained + (COPIES_WHERE_PADDED * of_graph if trained < of_graph else 0)
    return RESERVE_BYTES + BYTES_PER_VALUE * copies


def _values(gradient: TensorSpec) -> int:
    return math.prod(size or 1 for size in gradient.shape)


def _values_at_rank(gradient: TensorSpec, rank: int) -> int:
    """Of a gradient that is cut to a device's rank; the head's has none."""
    for ending, axis in ((A_ENDING, 0), (B_ENDING, -1)):
        if gradient.name.endswith(ending):
            return _values(gradient) // (gradient.shape[axis] or 1) * rank
    return _values(gradient)


def as_demanding_as(failed: MemberKey, members: Sequence[MemberSpec]) -> frozenset[MemberKey]:
    """The members of the same format that need at least as much memory as `failed`, itself included."""
    same_format = [each for each in members if each.key.format == failed.format]
    needed = {each.key: needed_bytes(each) for each in same_format}
    return frozenset(key for key, size in needed.items() if size >= needed.get(failed, math.inf)) | {failed}
