"""Ours: the round ends at the deadline that is worth most per second, and every device goes as deep as it allows.

    worth(T) = sum over layers l of importance_l * coverage_l(T) ** coverage_power / T

coverage_l(T) is the share of the fleet's examples on devices that train layer l when each takes its deepest member that
is done by T. The power, 0.5 by default, says that a second device on a layer helps less than the first. Devices that
have no member done in time sit out, but none for longer than a set number of rounds: when one is due, T is at least its
fastest completion time. Quantized layers and recompute budget are chosen with the depth, among all efficient members.
Times are those of every further round: what a device fetches once decides nothing.

A deeper member never lowers the sum, so of all joint assignments that end at T this is the best one, and trying every
completion time as T finds the best of all (`DeadlineSettings.voters` "fleet"). But then a device that gets faster may
make a shorter round worth it, and get a shallower member in it: the fleet gains, that device's depth does not. It is
the only way to lose depth: at the same or a later T nobody does.

With "others" each device's deadline is the best one of the fleet without it, so its own speed and memory decide only
what it does by a time that they do not move, and more of either never gives it a shallower member. The price: deadlines
differ from device to device, so the round may end later than the best T, the more so the smaller the fleet. (A device
whose turn it is, and that misses its deadline, trains its fastest member; for more memory not to change that to a
shallower one, a smaller depth must never need more memory or time.)

The rank can be a choice, too (`DeadlineSettings.rank_shares`), for slow links: a device may fetch and send fewer terms
of each adapter. Coverage is then counted term by term, the first terms being worth most (`deadline_vote.py`). By a
deadline a device trains the deepest member that it can at any rank, at the highest that it then can; T is the best one
for devices that choose in that order, not for all joint choices.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.deadline_vote import Ballot, DeadlineVote
from quadloom_server.planning.efficient import (
    Candidate,
    assigned,
    at_ranks,
    efficient,
    faster,
    fastest,
    feasible,
    sits_out_unfit,
)
from quadloom_server.planning.importance import importance_of_layers
from quadloom_server.planning.round_plan import PlannedDevice, PlannedWork, RoundContext, RoundPlan, RoundPlanner

MOST_DEADLINES = 4096
"""Possible deadlines that are weighed; of more, every second, third ... one, and the last. Bounds memory and time.

Beyond that, some 500 devices, the best T is found up to a few thousandths, and a device's own times move the choice of
the others a little.
"""

Options = Callable[[RoundContext, PlannedDevice], Sequence[Candidate]]
"""The members that a device may choose from."""


@dataclass(frozen=True)
class DeadlineSettings:
    """How the deadline is chosen.

    Attributes:
        included_every_rounds: each device takes part at least once in so many consecutive rounds; 1 is always.
        coverage_power: 1 if a layer gains as much from its tenth device as from its first, towards 0 if nothing more.
        voters: whose completion times decide a device's deadline, see above.
        rank_shares: of its LoRA rank that a device may be given.
        rank_power: 1 if every term of an adapter is worth as much, towards 0 if only the first is.
    """

    included_every_rounds: int = 4
    coverage_power: float = 0.5
    voters: Literal["fleet", "others"] = "fleet"
    rank_shares: tuple[float, ...] = (1.0,)
    rank_power: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.included_every_rounds < 1:
            raise QuadloomError(
                f"included_every_rounds is {self.included_every_rounds}", remedy="give 1 (every round) or more"
            )
        if not 0 < self.coverage_power <= 1:
            raise QuadloomError(f"coverage_power is {self.coverage_power:g}", remedy="give more than 0 and at most 1")
        if not self.rank_shares or not 0 < min(self.rank_shares) <= max(self.rank_shares) <= 1:
            raise QuadloomError(
                f"rank_shares is {self.rank_shares}", remedy="give shares above 0 and at most 1, such as 1 or 0.5"
            )
        if not 0 < self.rank_power <= 1:
            raise QuadloomError(f"rank_power is {self.rank_power:g}", remedy="give more than 0 and at most 1")


def efficient_members(context: RoundContext, device: PlannedDevice) -> Sequence[Candidate]:
    """All that is worth a thought: any depth, quantization and recompute budget."""
    return efficient(feasible(context, device))


def deadline_planner(settings: DeadlineSettings, options_of: Options = efficient_members) -> RoundPlanner:
    """The planner with these settings.

    Args:
        options_of: what a device may choose from; one without any sits out, and makes nobody wait.
    """

    def plan(context: RoundContext) -> RoundPlan:
        options = {
            device.name: _at_any_rank(context, device, options_of(context, device), settings)
            for device in context.devices
        }
        able = [device for device in context.devices if options[device.name]]
        deadlines = _deadlines(context, able, options, settings)
        return {
            device.name: _work(device, options[device.name], deadlines[device.name], settings)
            if options[device.name]
            else sits_out_unfit(context, device)
            for device in context.devices
        }

    return plan


def is_due(device: PlannedDevice, settings: DeadlineSettings) -> bool:
    """Whether the device must take part now, to be included often enough."""
    return device.rounds_since_included + 1 >= settings.included_every_rounds


def _at_any_rank(
    context: RoundContext, device: PlannedDevice, members: Sequence[Candidate], settings: DeadlineSettings
) -> list[Candidate]:
    """The members, each with every rank, best first: depth, then rank and time."""
    rank = context.rank_of(device)
    options = [each for member in members for each in at_ranks(context, device, member, settings.rank_shares)]
    return sorted(options, key=lambda each: (-each.depth, -(each.rank or rank), *faster(each)))


def _work(
    device: PlannedDevice, options: Sequence[Candidate], deadline_s: float, settings: DeadlineSettings
) -> PlannedWork:
    chosen = next((each for each in options if each.recurring_s <= deadline_s), None)
    if chosen is not None:
        by_then = f"is done by {deadline_s:.1f} s, the end worth most per second"
        return assigned(chosen, device, f"deepest that {'fits' if math.isinf(deadline_s) else by_then}")
    first = fastest(options)
    if is_due(device, settings):
        return assigned(first, device, f"its turn after {device.rounds_since_included} rounds, so its fastest member")
    left = settings.included_every_rounds - 1 - device.rounds_since_included
    return PlannedWork(
        None,
        f"sits out: takes at least {first.recurring_s:.1f} s ({first.key.label}), the round ends at {deadline_s:.1f} s;"
        f" its turn comes in {left} round{'' if left == 1 else 's'} at the latest",
    )


def _deadlines(
    context: RoundContext,
    able: Sequence[PlannedDevice],
    options: Mapping[str, Sequence[Candidate]],
    settings: DeadlineSettings,
) -> dict[str, float]:
    """The deadline of each device that can train anything, in seconds."""
    if not able:
        return {}
    times = _possible_deadlines(each.recurring_s for device in able for each in options[device.name])
    ballots = [_ballot(times, device, options[device.name], context) for device in able]
    first = np.array([fastest(options[device.name]).recurring_s for device in able])
    earliest = np.where([is_due(device, settings) for device in able], first, 0.0)
    known = importance_of_layers(context.importance, range(context.layers))
    importance = np.array([known[layer] for layer in range(context.layers)])
    vote = DeadlineVote(times, ballots, importance, settings.coverage_power, settings.rank_power)
    if settings.voters == "fleet":
        best = vote.best(np.ones_like(times, dtype=bool), earliest_s=float(earliest.max()))
        return {device.name: best for device in able}
    own = np.stack([np.isin(times, [each.recurring_s for each in options[device.name]]) for device in able])
    proposers = own.sum(axis=0)
    deadlines = {}
    for place, device in enumerate(able):
        latest_due = float(np.delete(earliest, place).max(initial=0.0))
        deadlines[device.name] = vote.best(proposers > own[place], earliest_s=latest_due, without=place)
    return deadlines


def _possible_deadlines(times_s: Iterable[float]) -> NDArray[np.float64]:
    ordered = sorted(set(times_s), reverse=True)
    return np.array(ordered[:: math.ceil(len(ordered) / MOST_DEADLINES)][::-1])


def _ballot(
    times: NDArray[np.float64], device: PlannedDevice, options: Sequence[Candidate], context: RoundContext
) -> Ballot:
    """What a device does by each deadline; `options` has first what it prefers."""
    depths = np.zeros(len(times), dtype=np.int32)
    rank_shares = np.ones(len(times))
    for each in reversed(options):
        in_time = times >= each.recurring_s
        depths[in_time] = each.depth
        rank_shares[in_time] = (each.rank or context.rank_of(device)) / context.rank
    return Ballot(float(device.capabilities.examples), depths, rank_shares)
