"""Which of the available devices a round is planned for."""

from collections.abc import Callable, Sequence

import numpy as np

from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlanner

Selection = Callable[[RoundContext, RoundPlanner, int, np.random.Generator], tuple[PlannedDevice, ...]]
"""(all that are available, planner, how many are wanted, random numbers) -> those that the planner then sees."""


def uniform(
    context: RoundContext, planner: RoundPlanner, wanted: int, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from all; whoever then sits out leaves its place empty."""
    del planner
    return _drawn(context.devices, wanted, random)


def able(
    context: RoundContext, planner: RoundPlanner, wanted: int, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from those that the planner has work for, so that a rule that shuts devices out costs no places."""
    plan = planner(context)
    return _drawn([each for each in context.devices if plan[each.name].member is not None], wanted, random)


def every_class(
    context: RoundContext, planner: RoundPlanner, wanted: int, random: np.random.Generator
) -> tuple[PlannedDevice, ...]:
    """Drawn alike from all, but of each kind of device as many as is its share of them, up to rounding.

    Where labels go with the kind of device, a round then has something of every label, though nobody knows the labels.
    """
    del planner
    of_class: dict[str, list[int]] = {}
    for place, device in enumerate(context.devices):
        of_class.setdefault(device.capabilities.profile, []).append(place)
    # The devices of a class lie in equal distances on a line from 0 to 1; who lies nearest to 0 is drawn.
    position = {}
    for places in of_class.values():
        offset = random.random()
        for rank, which in enumerate(random.permutation(len(places))):
            position[places[which]] = (rank + offset) / len(places)
    drawn = sorted(position, key=position.__getitem__)[:wanted]
    return tuple(context.devices[place] for place in sorted(drawn))


def _drawn(devices: Sequence[PlannedDevice], wanted: int, random: np.random.Generator) -> tuple[PlannedDevice, ...]:
    return tuple(devices[place] for place in sorted(random.permutation(len(devices))[:wanted]))
