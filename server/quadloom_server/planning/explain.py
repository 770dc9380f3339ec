"""A plan in words: what each device could train, which of it is efficient, and why it trains what it does."""

from collections.abc import Sequence

from quadloom_runtime.units import format_bytes
from quadloom_server.planning.cost_model import DeviceCost
from quadloom_server.planning.efficient import Candidate, efficient, feasible
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlan

BYTES_PER_MBIT = 10**6 / 8


def plan_table(context: RoundContext, plan: RoundPlan) -> str:
    """One line per device: limit, member, time, share of the round that it waits; then the round as a whole."""
    round_s = max((work.expected_s for work in plan.values() if work.expected_s is not None), default=0.0)
    width = max((len(device.name) for device in context.devices), default=0)
    lines = [f"{'device':<{width}} {'limit':>9} {'member':>22} {'expected s':>10} {'waits s':>8}  why"]
    for device in context.devices:
        work = plan[device.name]
        member = "-" if work.member is None else work.member.label
        expected = "-" if work.expected_s is None else f"{work.expected_s:.1f}"
        waits = "-" if work.expected_s is None else f"{round_s - work.expected_s:.1f}"
        limit = format_bytes(device.capabilities.memory_limit_bytes)
        lines.append(f"{device.name:<{width}} {limit:>9} {member:>22} {expected:>10} {waits:>8}  {work.reason}")
    depths = [work.member.depth for work in plan.values() if work.member is not None]
    mean = sum(depths) / len(depths) if depths else 0.0
    lines.append(
        f"{len(depths)} of {len(plan)} devices train {mean:.1f} layers on average; the round takes {round_s:.1f} s"
    )
    return "\n".join(lines)


def device_explanation(context: RoundContext, device: PlannedDevice, plan: RoundPlan) -> str:
    """The device, its feasible set, the efficient members of it as a table with the chosen one marked, and why."""
    possible = feasible(context, device)
    worthwhile = efficient(possible)
    runnable = [each for each in context.members if each.key.format in device.capabilities.formats]
    work = plan[device.name]
    labels = ", ".join(each.key.label for each in possible) or "none"
    limit = format_bytes(device.capabilities.memory_limit_bytes)
    lines = [
        f"{device.name}: {limit}, {_speed(device.cost)}",
        f"  feasible, {len(possible)} of {len(runnable)}: {labels}",
    ]
    if worthwhile:
        lines.append(f"  efficient, {len(worthwhile)}: no other is as deep, as fast and as precise")
        lines += _efficient_table(worthwhile, work.member)
    chosen = "nothing" if work.member is None else work.member.label
    if work.member is not None and work.member not in {each.key for each in worthwhile}:
        chosen += " (feasible, not efficient)"
    lines.append(f"  trains {chosen}: {work.reason}")
    return "\n".join(lines)


def _efficient_table(candidates: Sequence[Candidate], chosen: object) -> list[str]:
    head = f"    {'member':>22} {'layers':>6} {'needs':>9} {'expected s':>10} {'gradient error':>15}"
    rows = [
        f"  {'>' if each.key == chosen else ' '} {each.key.label:>22} {each.depth:>6} "
        f"{format_bytes(each.needed_bytes):>9} {each.expected_s:>10.1f} {100 * each.error:>13.2f} %"
        for each in candidates
    ]
    return [head, *rows]


def _speed(cost: DeviceCost) -> str:
    compute = f"{cost.slowdown:.2g} x the reference machine's step time"
    if cost.quantization_ratio != 1:
        compute += f", quantization {cost.quantization_ratio:.2g} x dearer"
    return f"{compute}, {_link(cost.download_bytes_per_s)} down, {_link(cost.upload_bytes_per_s)} up"


def _link(bytes_per_s: float | None) -> str:
    return "no bound" if bytes_per_s is None else f"{bytes_per_s / BYTES_PER_MBIT:.3g} Mbit/s"
