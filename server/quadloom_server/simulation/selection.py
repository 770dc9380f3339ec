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
    """Drawn alike from all, but of each class of devices as many as its share of them, up to rounding.

    Where data go with the kind of device, a round then has something of everything, whatever the labels are.
    """
    del planner
    classes: dict[str, list[int]] = {}
    for place, device in enumerate(context.devices):
        classes.setdefault(device.capabilities.profile or "", []).append(place)
    keys = {}
    for places in classes.values():
        offset = random.random()
        for rank, which in enumerate(random.permutation(len(places))):
            keys[places[which]] = (rank + offset) / len(places)
    return tuple(context.devices[place] for place in sorted(sorted(keys, key=keys.__getitem__)[:wanted]))


def _drawn(devices: Sequence[PlannedDevice], wanted: int, random: np.random.Generator) -> tuple[PlannedDevice, ...]:
    return tuple(devices[place] for place in sorted(random.permutation(len(devices))[:wanted]))
