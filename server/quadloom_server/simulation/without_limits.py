"""A reference that no real fleet can run: devices that train as if their memory had no end."""

from dataclasses import replace

from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlan, RoundPlanner

ENDLESS_BYTES = 1 << 60


def without_memory_limits(planner: RoundPlanner) -> RoundPlanner:
    """The planner, told of devices that hold every member."""

    def plan(context: RoundContext) -> RoundPlan:
        return planner(replace(context, devices=tuple(map(_endless, context.devices))))

    return plan


def _endless(device: PlannedDevice) -> PlannedDevice:
    capabilities = device.capabilities.model_copy(update={"memory_limit_bytes": ENDLESS_BYTES})
    return replace(device, capabilities=capabilities)
