"""Which member a device trains: the deepest that fits its memory, then the least quantized."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_runtime.units import format_bytes

PLANNED_PEAK_SAFETY = 1.1
"""What a planned peak is multiplied with: measured peaks lie a few percent above the plan (`quadloom bench memory`)."""
RESERVE_BYTES = 6_000_000
"""What training takes beside the graph: gradients, optimizer state, batch, checkpoint, slack of the allocators."""


@dataclass(frozen=True)
class Choice:
    """What the planner decided. `member` is None when nothing fits; `reason` says why, in words."""

    member: MemberKey | None
    reason: str


Planner = Callable[[Capabilities, Sequence[MemberSpec], Collection[MemberKey]], Choice]
"""(device, members of the family, members that it must not get) -> choice. Pure, so that policies can be compared."""


def needed_bytes(member: MemberSpec) -> int:
    """Memory that a device must be able to give: the step's peak, measured or planned plus safety, and the reserve."""
    if member.measured_peak_bytes is not None:
        return member.measured_peak_bytes + RESERVE_BYTES
    return math.ceil(member.planned_peak_bytes * PLANNED_PEAK_SAFETY) + RESERVE_BYTES


def as_demanding_as(failed: MemberKey, members: Sequence[MemberSpec]) -> frozenset[MemberKey]:
    """The members of the same format that need at least as much memory as `failed`, itself included."""
    same_format = [each for each in members if each.key.format == failed.format]
    needed = {each.key: needed_bytes(each) for each in same_format}
    return frozenset(key for key, size in needed.items() if size >= needed.get(failed, math.inf)) | {failed}


def deepest_that_fits(
    capabilities: Capabilities, members: Sequence[MemberSpec], excluded: Collection[MemberKey]
) -> Choice:
    """Choose the deepest member that fits, then the least quantized, then the format that the device names first.

    Args:
        capabilities: what the device can run and how much memory it may use.
        members: every member of the family.
        excluded: members that it must not get, because one no larger ran out of memory on it.
    """
    preference = {name: place for place, name in enumerate(reversed(capabilities.formats))}
    runnable = [each for each in members if each.key.format in preference]
    if not runnable:
        have = ", ".join(sorted({each.key.format for each in members}))
        return Choice(None, f"the family has {have}, the device runs {', '.join(capabilities.formats)}")
    limit = capabilities.memory_limit_bytes
    allowed = [each for each in runnable if each.key not in excluded]
    fitting = [each for each in allowed if needed_bytes(each) <= limit]
    if not fitting:
        return Choice(None, _why_nothing_fits(limit, runnable, allowed))
    best = max(fitting, key=lambda each: (each.key.depth, -each.key.quantized_layers, preference[each.key.format]))
    return Choice(best.key, _why(best, limit, tried_larger=len(allowed) < len(runnable)))


def _why(member: MemberSpec, limit: int, *, tried_larger: bool) -> str:
    kind = "planned" if member.measured_peak_bytes is None else "measured"
    after = ", after a larger one ran out of memory" if tried_larger else ""
    return (
        f"deepest that fits, least quantized: needs {format_bytes(needed_bytes(member))} ({kind}) "
        f"of {format_bytes(limit)}{after}"
    )


def _why_nothing_fits(limit: int, runnable: Sequence[MemberSpec], allowed: Sequence[MemberSpec]) -> str:
    if not allowed:
        smallest = min(runnable, key=needed_bytes)
        return f"every member ran out of memory on this device, the smallest being {smallest.key.label}"
    smallest = min(allowed, key=needed_bytes)
    return (
        f"nothing fits: the smallest member, {smallest.key.label}, needs {format_bytes(needed_bytes(smallest))}, "
        f"the device may use {format_bytes(limit)}"
    )
