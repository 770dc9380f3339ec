"""By memory alone: every device trains the deepest member that fits it, however long the others wait.

Of several of that depth the fastest on it: quantization and recomputation save memory for time, and a device does no
more of either than its memory asks for. Then the most precise, and of the format that it names first.
"""

from quadloom_server.planning.efficient import assigned, deepest, feasible, sits_out_unfit
from quadloom_server.planning.round_plan import PlannedDevice, PlannedWork, RoundContext, RoundPlan


def deepest_each(context: RoundContext) -> RoundPlan:
    """Plan a round by memory alone."""
    return {device.name: _work(context, device) for device in context.devices}


def _work(context: RoundContext, device: PlannedDevice) -> PlannedWork:
    chosen = deepest(feasible(context, device))
    if chosen is None:
        return sits_out_unfit(context, device)
    return assigned(chosen, device, "deepest that fits, then fastest")
