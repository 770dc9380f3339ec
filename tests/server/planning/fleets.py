"""Families and fleets for the planners: members that are physical, in that saving memory costs time, and wild ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import BlobReference, GradientError, MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.cost_model import DeviceCost, ReferenceCost, step_seconds
from quadloom_server.planning.plan import RESERVE_BYTES
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext

MEGABYTE = 1_000_000
MEGABYTES_PER_LAYER = 10
RANK = 8
GIGA = 10**9


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
        outputs=(),
        peak_items=(),
    )


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
            draw(st.floats(0.5, 45)),
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
    """Members whose memory, time and error follow no rule, in two formats, some of them excluded on some devices."""
    keys = draw(
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.integers(0, 4),
                st.sampled_from([0, 3, 30]),
                st.sampled_from(["onnx", "executorch"]),
            ).filter(lambda key: key[1] <= key[0]),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
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
        )
        for depth, quantized, percent, name in keys
    ]
    devices = [
        device(
            each.name,
            draw(st.floats(0.5, 45)),
            slowdown=each.cost.slowdown,
            examples=each.capabilities.examples,
            waited=each.rounds_since_included,
            formats=draw(st.lists(st.sampled_from(["onnx", "executorch"]), min_size=1, unique=True)),
            excluded=frozenset(draw(st.sets(st.sampled_from([every.key for every in members]), max_size=3))),
        )
        for each in draw(fleets(most=most))
    ]
    return Scene(members, devices, {layer: draw(st.floats(0.1, 10)) for layer in range(4)})
