"""What a planner is told about a simulated fleet: profiles and reports, never what is true of a device."""

from collections.abc import Collection
from dataclasses import replace

from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.calibration import calibrated
from quadloom_server.planning.memory_estimate import MemoryEstimate
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.simulation.fleet import SimulatedDevice
from quadloom_server.simulation.randomness import generator
from quadloom_server.simulation.state import DeviceHistory, Facts
from quadloom_server.simulation.world import World


def round_context(world: World, facts: Facts, *, busy: Collection[str]) -> RoundContext:
    """The next round with every device that is there and has no work.

    Args:
        busy: names of the devices whose updates are under way.
    """
    there = [device for device in world.devices if device.name not in busy and _is_there(world, facts, device)]
    return RoundContext(
        members=world.manifest.members,
        references=world.references,
        layers=world.manifest.model.layers,
        devices=tuple(_planned(world, device, facts.histories[device.name]) for device in there),
        steps=world.settings.steps,
        rank=world.manifest.lora.rank,
        importance=facts.importance,
        round_index=facts.next_round,
        seed=world.settings.seed,
    )


def _planned(world: World, device: SimulatedDevice, history: DeviceHistory) -> PlannedDevice:
    rank = world.rank_of(device)
    capabilities = Capabilities(
        formats=tuple(each.format for each in world.manifest.formats),
        memory_limit_bytes=device.memory_limit_bytes,
        threads=1,
        examples=len(world.rows[device.name]),
        profile=device.group,
        rank=rank,
    )
    cost = calibrated(
        replace(device.assumed_cost, rank_share=rank / world.manifest.lora.rank),
        world.references,
        training=history.training,
        downloads=history.downloads,
        uploads=history.uploads,
    )
    return PlannedDevice(
        device.name,
        capabilities,
        cost=cost,
        memory=MemoryEstimate(rank=rank),
        fetched=frozenset(history.fetched),
        # Only rounds in which it was asked: one that was not drawn does not have to be made up for.
        rounds_since_included=history.sat_out,
    )


def _is_there(world: World, facts: Facts, device: SimulatedDevice) -> bool:
    random = generator(world.settings.seed, "availability", round_index=facts.next_round, device=device.name)
    return bool(random.random() < world.fleet.time.availability)
