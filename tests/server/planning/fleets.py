"""Families and fleets for the planners: members that are physical, in that saving memory costs time, and wild ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import BlobReference, GradientError, MemberKey, MemberSpec, TensorSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.cost_model import DeviceCost, ReferenceCost, step_seconds
from quadloom_server.planning.member_memory import RESERVE_BYTES
from quadloom_server.planning.memory_estimate import MemoryEstimate, after_out_of_memory, after_step
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlan

MEGABYTE = 1_000_000
MEGABYTES_PER_LAYER = 10
RANK = 8
GIGA = 10**9
WILD_KEYS = tuple(
    (depth, quantized, percent, name)
    for depth in range(5)
    for quantized in range(depth + 1)
    for percent in (0, 3, 30)
    for name in ("onnx", "executorch")
)


def member(
    depth: int,
    quantized: int = 0,
    *,
    megabytes: float = 1,
    percent: int = 0,
    operations: int = GIGA,
    elements: int = 0,
    error: float = 0.0,
    step_s: float | None = None,
    format_name: str = "onnx",
    outputs: Sequence[TensorSpec] = (),
) -> MemberSpec:
    """A member whose measured peak is that many megabytes."""
    key = MemberKey.model_validate(
        {"depth": depth, "quantized_layers": quantized, "recompute_percent": percent, "format": format_name}
    )
    return MemberSpec(
        key=key,
        graph=BlobReference(path=f"{format_name}/{key.stem}", sha256="0" * 64, size_bytes=1, media_type="x/y"),
        planned_peak_bytes=1,
        measured_peak_bytes=int(megabytes * MEGABYTE),
        measured_step_s=step_s,
        stash_bytes_before=0,
        stash_bytes_after=0,
        weight_bytes=0,
        forward_operations=operations,
        backward_operations=0,
        quantized_elements=elements,
        gradient_error=GradientError(relative_l2=error, worst_cosine=1, worst_tensor=None),
        inputs=(),
        outputs=tuple(outputs),
        peak_items=(),
    )


def gradients(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """What a graph gives for trained tensors of these names and shapes."""
    return tuple(TensorSpec(name=f"gradient.{name}", shape=shape, dtype="float32") for name, shape in shapes.items())


def gradients_of_layers(depth: int, *, width: int, head_width: int) -> tuple[TensorSpec, ...]:
    """Of one LoRA pair in each trained layer, at the family's rank, and of a head of two classes."""
    shapes: dict[str, tuple[int, ...]] = {"base_model.model.classifier.weight": (2, head_width)}
    for layer in range(depth):
        query = f"base_model.model.encoder.layer.{layer}.query"
        shapes |= {f"{query}.lora_A.weight": (RANK, width), f"{query}.lora_B.weight": (width, RANK)}
    return gradients(shapes)


def physical_family(layers: int, *, percents: Sequence[int] = (3,)) -> list[MemberSpec]:
    """Depth 0 to `layers`, every number of quantized layers and recompute budget: saving memory always takes time."""
    members = [member(0, megabytes=1, operations=layers * GIGA)]
    for depth in range(1, layers + 1):
        for quantized in range(depth + 1):
            for percent in percents:
                kept = (depth - quantized) + 0.25 * quantized
                members.append(
                    member(
                        depth,
                        quantized,
                        percent=percent,
                        megabytes=2 + MEGABYTES_PER_LAYER * kept * (1 - percent / 100),
                        operations=(layers + depth) * GIGA + layers * GIGA * percent // 100,
                        elements=quantized * GIGA // 400,
                        error=0.002 * quantized,
                    )
                )
    return members


def references(members: Sequence[MemberSpec]) -> dict[MemberKey, ReferenceCost]:
    """Reference costs in which a deeper member also uploads more."""
    found = {}
    for each in members:
        arithmetic_s, quantization_s = step_seconds(each, measured=False)
        found[each.key] = ReferenceCost(arithmetic_s, quantization_s, update_bytes=10_000 * (1 + each.key.depth))
    return found


def device(
    name: str,
    megabytes: float,
    *,
    slowdown: float = 1.0,
    examples: int = 1,
    waited: int = 0,
    formats: Sequence[str] = ("onnx",),
    upload_bytes_per_s: float | None = None,
    excluded: frozenset[MemberKey] = frozenset(),
) -> PlannedDevice:
    """A device with that much memory beside the reserve."""
    capabilities = Capabilities.model_validate(
        {
            "formats": tuple(formats),
            "memory_limit_bytes": int(megabytes * MEGABYTE) + RESERVE_BYTES,
            "threads": 1,
            "examples": examples,
        }
    )
    cost = DeviceCost(slowdown=slowdown, upload_bytes_per_s=upload_bytes_per_s)
    return PlannedDevice(name, capabilities, cost=cost, excluded=excluded, rounds_since_included=waited)


def context(
    members: Sequence[MemberSpec],
    devices: Sequence[PlannedDevice],
    *,
    layers: int | None = None,
    importance: Mapping[int, float] | None = None,
) -> RoundContext:
    """A round of ten steps."""
    deepest = max(each.key.depth for each in members)
    return RoundContext(
        members,
        references(members),
        layers or max(1, deepest),
        devices,
        steps=10,
        rank=RANK,
        importance=importance or {},
    )


def check_legal(given: RoundContext, plan: RoundPlan) -> None:
    """Everybody is in the plan, and whoever has work can run it, may get it, and has the memory for it."""
    members = {each.key: each for each in given.members}
    assert set(plan) == {each.name for each in given.devices}
    for each in given.devices:
        work, can = plan[each.name], each.capabilities
        assert work.reason
        if work.member is None:
            assert (work.expected_s, work.rank) == (None, None)
            continue
        rank = work.rank or can.rank or given.rank
        assert 1 <= rank <= (can.rank or given.rank), work
        # What the device went through counts, and a lower rank may need more.
        needed = replace(each.memory, rank=rank).needed_bytes(members[work.member])
        assert needed <= can.memory_limit_bytes, (work, needed)
        assert work.member.format in can.formats, work
        assert work.member not in each.excluded, work


def worth(
    given: RoundContext, chosen: Mapping[str, tuple[int, int] | None], end_s: float, *, power: float = 0.5
) -> float:
    """The deadline planners' objective, written down a second time: importance of what is covered, per second.

    The first n of the family's terms of a layer are worth ``(n / RANK) ** 0.5`` of it.

    Args:
        chosen: depth and LoRA rank, of every device that can train anything, None where it sits out.
    """
    examples = {each.name: each.capabilities.examples for each in given.devices if each.name in chosen}
    at_work = {name: work for name, work in chosen.items() if work is not None}
    ranks = sorted({rank for _, rank in at_work.values()})
    total = 0.0
    for layer in range(given.layers):
        for before, rank in pairwise([0, *ranks]):
            on = [name for name, work in at_work.items() if layer >= given.layers - work[0] and rank <= work[1]]
            coverage = sum(examples[name] for name in on) / sum(examples.values())
            share = (rank / RANK) ** 0.5 - (before / RANK) ** 0.5
            total += given.importance[layer] * share * coverage**power
    return total / end_s


def best_end(
    able: Sequence[PlannedDevice],
    seconds: Mapping[str, Sequence[float]],
    worth_at: Callable[[float], float],
    *,
    due: Callable[[PlannedDevice], bool],
) -> tuple[float, float]:
    """By trying all: when every device that is due can be done, and the largest worth of an end that is not before.

    Args:
        seconds: of everything that each device may train.
    """
    due_s = max((min(seconds[each.name]) for each in able if due(each)), default=0.0)
    ends = {end_s for each in able for end_s in seconds[each.name] if end_s >= due_s}
    return due_s, max(worth_at(end_s) for end_s in ends)


@dataclass(frozen=True)
class Scene:
    """A family and a fleet, before anything is planned."""

    members: Sequence[MemberSpec]
    devices: Sequence[PlannedDevice]
    importance: Mapping[int, float] = field(default_factory=dict)

    def context(self, devices: Sequence[PlannedDevice] | None = None) -> RoundContext:
        """The round with the scene's devices, or with others."""
        return context(self.members, self.devices if devices is None else devices, importance=self.importance)


@st.composite
def fleets(draw: st.DrawFn, *, most: int = 4) -> list[PlannedDevice]:
    """Up to `most` devices from those that hardly hold the head to those that hold everything."""
    count = draw(st.integers(1, most))
    return [
        device(
            f"device-{index}",
            draw(st.integers(1, 90)) / 2,
            slowdown=draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 5.0])),
            examples=draw(st.integers(1, 50)),
            waited=draw(st.integers(0, 4)),
            upload_bytes_per_s=draw(st.none() | st.sampled_from([1e4, 1e6])),
        )
        for index in range(count)
    ]


@st.composite
def physical_scenes(draw: st.DrawFn, *, most: int = 4, percents: Sequence[int] = (3, 30)) -> Scene:
    """A physical family of up to four layers, a fleet, and importances above 0."""
    layers = draw(st.integers(1, 4))
    importance = {layer: draw(st.floats(0.1, 10)) for layer in range(layers)}
    return Scene(physical_family(layers, percents=percents), draw(fleets(most=most)), importance)


@st.composite
def wild_scenes(draw: st.DrawFn, *, most: int = 4) -> Scene:
    """Members whose memory, time and error follow no rule, in two formats, on devices of several LoRA ranks.

    What a device went through has made its estimates larger, some members are excluded on it, and its limit may be what
    a member just needs at one of the ranks that it could be given.
    """
    keys = draw(st.lists(st.sampled_from(WILD_KEYS), min_size=1, max_size=12, unique=True))
    # At a lower rank a small head needs less memory, and a large one more.
    width, head_width = draw(st.sampled_from([500, 5000])), draw(st.sampled_from([1, 50_000]))
    members = [
        member(
            depth,
            quantized,
            percent=percent,
            format_name=name,
            megabytes=draw(st.integers(1, 40)),
            operations=draw(st.integers(1, 20)) * GIGA,
            elements=draw(st.integers(0, 3)) * GIGA // 400,
            error=draw(st.sampled_from([0.0, 0.01])),
            outputs=gradients_of_layers(depth, width=width, head_width=head_width),
        )
        for depth, quantized, percent, name in keys
    ]
    devices = [draw(_made_wild(each, members)) for each in draw(fleets(most=most))]
    return Scene(members, devices, {layer: draw(st.floats(0.1, 10)) for layer in range(4)})


@st.composite
def _made_wild(draw: st.DrawFn, plain: PlannedDevice, members: Sequence[MemberSpec]) -> PlannedDevice:
    rank = draw(st.sampled_from([None, 4, 1]))
    memory = draw(_corrected(MemoryEstimate(rank=rank), members))
    limits = st.just(plain.capabilities.memory_limit_bytes) | _just_holding(memory, members)
    changed: dict[str, object] = {
        "formats": tuple(draw(st.lists(st.sampled_from(["onnx", "executorch"]), min_size=1, unique=True))),
        "memory_limit_bytes": draw(limits),
        "rank": rank,
    }
    return replace(
        plain,
        capabilities=plain.capabilities.model_copy(update=changed),
        cost=replace(plain.cost, rank_share=(rank or RANK) / RANK),
        memory=memory,
        excluded=frozenset(draw(st.sets(st.sampled_from([each.key for each in members]), max_size=2))),
    )


@st.composite
def _corrected(draw: st.DrawFn, estimate: MemoryEstimate, members: Sequence[MemberSpec]) -> MemoryEstimate:
    """The estimate after up to two steps that needed more than it says, or failed."""
    for each in draw(st.lists(st.sampled_from(members), max_size=2)):
        needed = estimate.needed_bytes(each)
        if draw(st.booleans()):
            estimate = after_out_of_memory(estimate, each, limit_bytes=draw(st.integers(needed, 2 * needed)))
        else:
            estimate = after_step(estimate, each, peak_bytes=needed + draw(st.integers(0, 10)) * MEGABYTE)
    return estimate


@st.composite
def _just_holding(draw: st.DrawFn, memory: MemoryEstimate, members: Sequence[MemberSpec]) -> int:
    """A limit that holds one of the members at one rank, or lacks a byte for it."""
    at_rank = replace(memory, rank=max(1, (memory.rank or RANK) // draw(st.sampled_from([1, 2, 4]))))
    return at_rank.needed_bytes(draw(st.sampled_from(members))) - draw(st.integers(0, 1))
