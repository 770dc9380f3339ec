"""Which member a device trains: the deepest that fits its memory, then the fastest."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import GRADIENT_PREFIX, MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_runtime.units import format_bytes

PLANNED_PEAK_SAFETY = 1.1
"""What a planned peak is multiplied with: measured peaks lie a few percent above the plan (`quadloom bench memory`)."""
BYTES_PER_VALUE = 4
RESERVE_BYTES = 4_000_000
"""What training takes beside the graph and its trained tensors: batch, messages, slack of the allocators."""
COPIES_IN_TRAINING = 8
"""Of the trained tensors: their values and AdamW's two moments, once more in a checkpoint that is written, and the
gradients as they came and clipped."""
QUANTIZATION_OPERATIONS = 70
"""Multiply-adds that take as long as quantizing an element and reading it back, for step times that nobody measured.

`quadloom bench step --members "12,0 12,12" --recompute 0,0.03,0.3`, ONNX on x86-64: quantizing all 12 layers of the
MiniLM shape (batch 16, sequence 64) lengthens a step by 8, 7 and 4 %. Of its 42.1, 42.6 and 48.4 G multiply-adds, for
52.9, 39.4 and 24.5 M quantized elements, that is 64, 78 and 80 for each element.
These are median seconds of one run of 9 rounds on a busy machine; by the ratios to PyTorch within each round, it is
13, 6 and 1 %. So the figure is rough: it ranks members whose times are far apart, `--measure` those that are close.
"""
EQUAL_ERROR_DIGITS = 4
"""Decimals to which gradient errors are compared: below, the formats round differently, and none is better for it."""

Rank = Callable[[MemberSpec], float]
"""What members are compared by; the smallest is best."""


@dataclass(frozen=True)
class Choice:
    """What the planner decided. `member` is None when nothing fits; `reason` says why, in words."""

    member: MemberKey | None
    reason: str


def needed_bytes(member: MemberSpec) -> int:
    """Memory that a device must be able to give: the step's peak and what training takes beside it."""
    return peak_bytes(member) + reserve_bytes(member)


def peak_bytes(member: MemberSpec) -> int:
    """Peak of one step, measured, or planned plus safety."""
    if member.measured_peak_bytes is not None:
        return member.measured_peak_bytes
    return math.ceil(member.planned_peak_bytes * PLANNED_PEAK_SAFETY)


def reserve_bytes(member: MemberSpec) -> int:
    """What training takes beside the graph."""
    gradients = (each for each in member.outputs if each.name.startswith(GRADIENT_PREFIX))
    values = sum(math.prod(size or 1 for size in each.shape) for each in gradients)
    return RESERVE_BYTES + COPIES_IN_TRAINING * BYTES_PER_VALUE * values


def as_demanding_as(failed: MemberKey, members: Sequence[MemberSpec]) -> frozenset[MemberKey]:
    """The members of the same format that need at least as much memory as `failed`, itself included."""
    same_format = [each for each in members if each.key.format == failed.format]
    needed = {each.key: needed_bytes(each) for each in same_format}
    return frozenset(key for key, size in needed.items() if size >= needed.get(failed, math.inf)) | {failed}


def deepest_that_fits(
    capabilities: Capabilities, members: Sequence[MemberSpec], excluded: Collection[MemberKey]
) -> Choice:
    """Choose the deepest member that fits; of several the fastest, then most precise, then of the format named first.

    Quantization and recomputation save memory for time: a device does no more of either than its memory asks for.
    Formats count as equally fast where a time was not measured.

    Args:
        capabilities: what the device can run and how much memory it may use.
        members: every member of the family.
        excluded: members that it must not get, because one no larger ran out of memory on it.
    """
    preference = {name: place for place, name in enumerate(capabilities.formats)}
    runnable = [each for each in members if each.key.format in preference]
    if not runnable:
        have = ", ".join(sorted({each.key.format for each in members}))
        return Choice(None, f"the family has {have}, the device runs {', '.join(capabilities.formats)}")
    limit = capabilities.memory_limit_bytes
    allowed = [each for each in runnable if each.key not in excluded]
    fitting = [each for each in allowed if needed_bytes(each) <= limit]
    if not fitting:
        return Choice(None, _why_nothing_fits(limit, runnable, allowed))
    left = _best(fitting, lambda each: -each.key.depth)
    decided = ["deepest that fits"]
    rules: tuple[tuple[str, Rank], ...] = (
        ("fastest", step_time(left)),
        ("most precise", lambda each: round(each.gradient_error.relative_l2, EQUAL_ERROR_DIGITS)),
        ("format named first", lambda each: preference[each.key.format]),
    )
    for name, rank in rules:
        best = _best(left, rank)
        decided += [name] if len(best) < len(left) else []
        left = best
    return Choice(left[0].key, _why(left[0], decided, limit, tried_larger=len(allowed) < len(runnable)))


def step_time(compared: Sequence[MemberSpec]) -> Rank:
    """What tells the members of `compared` apart by time: seconds if all were measured, else multiply-adds."""
    if all(each.measured_step_s is not None for each in compared):
        return lambda each: each.measured_step_s or 0.0
    return lambda each: (
        each.forward_operations + each.backward_operations + QUANTIZATION_OPERATIONS * each.quantized_elements
    )


def _best(members: Sequence[MemberSpec], rank: Rank) -> list[MemberSpec]:
    least = min(map(rank, members))
    return [each for each in members if rank(each) == least]


def _why(member: MemberSpec, decided: Sequence[str], limit: int, *, tried_larger: bool) -> str:
    kind = "planned" if member.measured_peak_bytes is None else "measured"
    after = ", after a larger one ran out of memory" if tried_larger else ""
    return (
        f"{', then '.join(decided)}: needs {format_bytes(needed_bytes(member))} ({kind}) "
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
