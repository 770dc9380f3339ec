"""Which of the available devices a round is planned for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlanner
from quadloom_server.planning.turns import Held, next_kind


@dataclass(frozen=True)
class Places:
    """The places to fill, and what a fair share of them is.

    Attributes:
        free: how many.
        fleet: devices by class, those at work too.
        held: what devices of a class have had of the places so far.
    """

    free: int
    fleet: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)


Selection = Callable[[RoundContext, RoundPlanner, Places, np.random.Generator], tuple[PlannedDevice, ...]]
"""(all that are available and have no work, planner, places, random numbers) -> those that the planner then sees."""


def uniform(
    context: RoundContext, planner: RoundPlanner, places: Places, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from all; whoever then sits out leaves its place empty."""
    del planner
    return _drawn(context.devices, places.free, random)


def able(
    context: RoundContext, planner: RoundPlanner, places: Places, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from those that the planner has work for, so that a rule that shuts devices out costs no places."""
    plan = planner(context)
    return _drawn([each for each in context.devices if plan[each.name].member is not None], places.free, random)


def every_class(
    context: RoundContext, planner: RoundPlanner, places: Places, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from all, but of each kind of device as many as is its share of them, up to rounding.

    Where labels go with the kind of device, a round then has something of every label, though nobody knows the labels.
    """
    del planner
    of_class: dict[str, list[int]] = {}
    for index, device in enumerate(context.devices):
        of_class.setdefault(device.capabilities.profile, []).append(index)
    # The devices of a class lie in equal distances on a line from 0 to 1; who lies nearest to 0 is drawn.
    position = {}
    for members in of_class.values():
        offset = random.random()
        for rank, which in enumerate(random.permutation(len(members))):
            position[members[which]] = (rank + offset) / len(members)
    drawn = sorted(position, key=position.__getitem__)[: places.free]
    return tuple(context.devices[place] for place in sorted(drawn))


def every_class_in_turn(
    context: RoundContext, planner: RoundPlanner, places: Places, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Each kind of device has its share of the time of the places; who of a kind is drawn alike."""
    del planner
    waiting: dict[str, list[PlannedDevice]] = {}
    for index in random.permutation(len(context.devices)):
        waiting.setdefault(context.devices[index].capabilities.profile, []).append(context.devices[index])
    held = dict(places.held)
    drawn = []
    for _ in range(min(places.free, len(context.devices))):
        name = next_kind((each for each in waiting if waiting[each]), held=held, fleet=places.fleet)
        drawn.append(waiting[name].pop())
        held[name] = held.get(name, Held()).with_one_more()
    return tuple(sorted(drawn, key=lambda device: device.name))


def _drawn(devices: Sequence[PlannedDevice], wanted: int, random: np.random.Generator) -> tuple[PlannedDevice, ...]:
    return tuple(devices[place] for place in sorted(random.permutation(len(devices))[:wanted]))
