"""Which members a device can train, and which of those are worth a thought.

The first of FedQuad's two steps (arXiv 2506.01001, abstract): "the feasible and efficient combinations of LoRA depth
and the number of activation quantization layers" of a device. What feasible means in bytes is ours, as are recompute
budgets and formats, which theirs does not have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_runtime.units import format_bytes
from quadloom_server.planning.cost_model import CompletionTime, completion_time
from quadloom_server.planning.round_plan import PlannedDevice, PlannedWork, RoundContext

SHOWN_FILES_S = 0.05
"""Fetching files is mentioned where it shows in seconds with one decimal."""
EQUAL_ERROR_DIGITS = 4
"""Decimals to which gradient errors are compared: below, the formats round differently, and none is better for it."""


@dataclass(frozen=True)
class Candidate:
    """A member on one device.

    Attributes:
        needed_bytes: memory that it needs there.
        time: of the round with it.
        preference: place of its format among those that the device runs, 0 for the first.
        rank: LoRA rank at which it trains, if that was chosen; None for the device's.
    """

    member: MemberSpec
    needed_bytes: int
    time: CompletionTime
    preference: int = 0
    rank: int | None = None

    @property
    def expected_s(self) -> float:
        """Seconds of the round, from the assignment to the end of the upload."""
        return self.time.total_s

    @property
    def recurring_s(self) -> float:
        """The same without fetching files that stay on the device: what candidates are compared by.

        Weights and graphs are fetched once, a deadline holds for many rounds. If they counted, a device with a slow
        link would be found too slow before it has them, round after round, and so would never get them.
        """
        return self.time.recurring_s

    @property
    def key(self) -> MemberKey:
        """What names the member."""
        return self.member.key

    @property
    def depth(self) -> int:
        """Layers that it trains."""
        return self.member.key.depth

    @property
    def error(self) -> float:
        """Gradient error, to the digits that count."""
        return round(self.member.gradient_error.relative_l2, EQUAL_ERROR_DIGITS)


def feasible(context: RoundContext, device: PlannedDevice) -> tuple[Candidate, ...]:
    """The members that the device runs, may get, and has the memory for; shallowest first, then fastest."""
    preference = {name: place for place, name in enumerate(device.capabilities.formats)}
    found = []
    for member in context.members:
        if member.key.format not in preference or member.key in device.excluded:
            continue
        needed = device.memory.needed_bytes(member)
        if needed > device.capabilities.memory_limit_bytes:
            continue
        time = completion_time(
            device.cost, member.key, context.references, steps=context.steps_of(device), fetched=device.fetched
        )
        found.append(Candidate(member, needed, time, preference[member.key.format]))
    return tuple(sorted(found, key=lambda each: (each.depth, *faster(each))))


def at_ranks(
    context: RoundContext, device: PlannedDevice, candidate: Candidate, shares: Iterable[float]
) -> tuple[Candidate, ...]:
    """A candidate at the device's rank, once with each of these shares of it, to whole ranks, 1 at least, that fits.

    A lower rank takes less time on the link, as much to compute, and with a large head more memory: what the graph is
    given is padded. Members that fit at a lower rank only are left out.
    """
    full = context.rank_of(device)
    found = []
    for rank in dict.fromkeys(max(1, round(share * full)) for share in shares):
        if rank == full:
            found.append(candidate)
            continue
        needed_bytes = replace(device.memory, rank=rank).needed_bytes(candidate.member)
        if needed_bytes > device.capabilities.memory_limit_bytes:
            continue
        cost = replace(device.cost, rank_share=rank / context.rank)
        at_rank = completion_time(
            cost, candidate.key, context.references, steps=context.steps_of(device), fetched=device.fetched
        )
        time = replace(candidate.time, adapter_s=at_rank.adapter_s, upload_s=at_rank.upload_s)
        found.append(replace(candidate, needed_bytes=needed_bytes, time=time, rank=rank))
    return tuple(found)


def efficient(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other one beats: none is as deep, as fast and as precise, and better in one of the three.

    Of several that are equal in all three, the one whose format the device names first.
    """
    kept, points = set(), list[tuple[float, float]]()
    # What beats another comes before it in this order, and is itself kept or beaten by one that is.
    for each in sorted(candidates, key=lambda each: (-each.depth, *faster(each))):
        time_s, error = each.recurring_s, each.error
        if not any(other_s <= time_s and other_error <= error for other_s, other_error in points):
            points.append((time_s, error))
            kept.add(each.key)
    return tuple(each for each in candidates if each.key in kept)


def least_quantized(context: RoundContext, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """FedQuad's efficient combinations: for every depth the smallest number of quantized layers that fits.

    Each further quantized layer costs time and buys only memory. Theirs knows no recomputation, so of the family's
    budgets only the smallest of each depth counts.
    """
    least_recompute: dict[tuple[int, str], int] = {}
    for key in (each.key for each in context.members):
        place = (key.depth, key.format)
        least_recompute[place] = min(key.recompute_percent, least_recompute.get(place, 100))
    best: dict[int, Candidate] = {}
    for each in candidates:
        if each.key.recompute_percent > least_recompute[each.depth, each.key.format]:
            continue
        rival = best.get(each.depth)
        if rival is None or _quantized_less(each) < _quantized_less(rival):
            best[each.depth] = each
    return tuple(best[depth] for depth in sorted(best))


def unquantized(context: RoundContext, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that save no memory by quantization, nor by recomputing more than the family's least."""
    return least_quantized(context, [each for each in candidates if each.key.quantized_layers == 0])


def deepest(candidates: Iterable[Candidate]) -> Candidate | None:
    """The deepest; of several the fastest, then most precise, then of the format named first. None if there is none."""
    return min(candidates, key=lambda each: (-each.depth, *faster(each)), default=None)


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The one that is done first; of several the deepest. There must be one."""
    return min(candidates, key=lambda each: (each.recurring_s, -each.depth, *faster(each)))


def assigned(candidate: Candidate, device: PlannedDevice, why: str) -> PlannedWork:
    """The device trains this member; the reason adds memory and time to `why`."""
    need, limit = format_bytes(candidate.needed_bytes), format_bytes(device.capabilities.memory_limit_bytes)
    after = ", after a larger one ran out of memory" if device.excluded else ""
    reason = f"{why}{after}: needs {need} of {limit}, takes {candidate.expected_s:.1f} s"
    if candidate.rank is not None:
        reason += f" at rank {candidate.rank}"
    if candidate.time.files_s >= SHOWN_FILES_S:
        reason += f", {candidate.time.files_s:.1f} s of it once, for files"
    return PlannedWork(candidate.key, reason, candidate.expected_s, candidate.rank)


def sits_out_unfit(context: RoundContext, device: PlannedDevice) -> PlannedWork:
    """The device sits out, since its planner has no feasible member for it; the reason says what is in the way."""
    runs, limit = device.capabilities.formats, device.capabilities.memory_limit_bytes
    runnable = [each for each in context.members if each.key.format in runs]
    allowed = [each for each in runnable if each.key not in device.excluded]
    if not runnable:
        have = ", ".join(sorted({each.key.format for each in context.members}))
        return PlannedWork(None, f"the family has {have}, the device runs {', '.join(runs)}")
    if not allowed:
        least = min(runnable, key=lambda each: (device.memory.needed_bytes(each), each.key.label))
        return PlannedWork(None, f"every member ran out of memory on this device, the smallest being {least.key.label}")
    possible = deepest(feasible(context, device))
    if possible is not None:
        return PlannedWork(None, f"sits out: it could train {possible.key.label}, but its planner gives no such member")
    smallest = min(allowed, key=lambda each: (device.memory.needed_bytes(each), each.key.label))
    need = format_bytes(device.memory.needed_bytes(smallest))
    return PlannedWork(
        None,
        f"nothing fits: the smallest member, {smallest.key.label}, needs {need}, the device may use "
        f"{format_bytes(limit)}",
    )


def faster(candidate: Candidate) -> tuple[float, float, int, str]:
    """Order among members of one depth, best first; the label makes it total."""
    return (candidate.recurring_s, candidate.error, candidate.preference, candidate.key.label)


def _quantized_less(candidate: Candidate) -> tuple[object, ...]:
    return (candidate.key.quantized_layers, *faster(candidate))
