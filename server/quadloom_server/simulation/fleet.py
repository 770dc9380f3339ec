"""The devices of a simulated fleet: what is true of each, and what the server is told of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.emulation.profiles import MBIT_PER_S, profile
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.member_names import find_member
from quadloom_runtime.units import parse_bytes
from quadloom_server.planning.cost_model import DeviceCost
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.simulation.fleet_file import GroupSection, SimulatedFleet
from quadloom_server.simulation.randomness import generator


@dataclass(frozen=True)
class SimulatedDevice:
    """One device.

    Attributes:
        group: name of its group.
        true_cost: how slow it is. No planner ever sees it, only the times that follow from it.
        assumed_cost: what its profile says, from which the server starts.
        rank: LoRA rank that it can train.
    """

    name: str
    group: str
    true_cost: DeviceCost
    assumed_cost: DeviceCost
    memory_limit_bytes: int
    rank: int


def simulated_devices(fleet: SimulatedFleet, manifest: FamilyManifest, *, seed: int) -> tuple[SimulatedDevice, ...]:
    """Every device, group after group, named ``<group>-1``, ``<group>-2`` ...

    Raises:
        QuadloomError: a profile, a size or a member that does not exist, or a rank above the family's.
    """
    return tuple(
        _device(group, f"{group.name}-{index + 1}", manifest, spread=fleet.time.spread, seed=seed)
        for group in fleet.group
        for index in range(group.count)
    )


def group_sizes(devices: Sequence[SimulatedDevice]) -> list[int]:
    """How many devices each group has, in their order."""
    names = [device.group for device in devices]
    return [names.count(name) for name in dict.fromkeys(names)]


def _device(group: GroupSection, name: str, manifest: FamilyManifest, *, spread: float, seed: int) -> SimulatedDevice:
    assumed = _assumed_cost(group)
    own = float(np.exp(spread * generator(seed, "device", device=name).standard_normal()))
    true = DeviceCost(
        slowdown=assumed.slowdown * own,
        quantization_ratio=assumed.quantization_ratio,
        download_bytes_per_s=assumed.download_bytes_per_s,
        upload_bytes_per_s=assumed.upload_bytes_per_s,
    )
    rank = group.rank or manifest.lora.rank
    if rank > manifest.lora.rank:
        raise QuadloomError(
            f"group {group.name!r} has rank {rank}, the family {manifest.lora.rank}",
            remedy="lower the rank, or export the family with a larger --rank",
        )
    return SimulatedDevice(name, group.name, true, assumed, _memory_limit_bytes(group, manifest), rank)


def _assumed_cost(group: GroupSection) -> DeviceCost:
    kind = None if group.profile is None else profile(group.profile)
    link = None if group.link_mbps is None else group.link_mbps * MBIT_PER_S
    return DeviceCost(
        slowdown=group.slowdown or (1.0 if kind is None else kind.slowdown),
        download_bytes_per_s=link or (None if kind is None else kind.download_bytes_per_s),
        upload_bytes_per_s=link or (None if kind is None else kind.upload_bytes_per_s),
    )


def _memory_limit_bytes(group: GroupSection, manifest: FamilyManifest) -> int:
    if group.holds is not None:
        return needed_bytes(find_member(manifest, group.holds))
    return parse_bytes(group.memory_limit or "")
