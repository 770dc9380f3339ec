"""`quadloom plan`: what each device of a fleet would train in a round, and why."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quadloom_runtime.contract.manifest import FamilyManifest
    from quadloom_runtime.emulation.fleet_file import FleetFile
    from quadloom_server.planning.round_plan import PlannedDevice, RoundContext

SUMMARY = "Show what a planner gives each device of a fleet, and why."

DEFAULT_STEPS = 10
ASSUMED_EXAMPLES = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--family", type=Path, required=True, metavar="DIR", help="folder of `quadloom export`")
    parser.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="fleet file (TOML)")
    parser.add_argument("--planner", metavar="NAME", help="which (default: the fleet file's, or deepest)")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"training steps (default: max_steps of the fleet, or {DEFAULT_STEPS})",
    )
    parser.add_argument(
        "--explain", action="store_true", help="also the feasible and the efficient members of every device"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of a first round; every device is as its profile says, and has every file already."""
    from quadloom_runtime.emulation.fleet_file import load_fleet
    from quadloom_runtime.errors import QuadloomError
    from quadloom_runtime.family_folder import load_manifest
    from quadloom_server.planning.explain import device_explanation, plan_table
    from quadloom_server.planning.registry import DEFAULT_PLANNER, planner

    fleet = load_fleet(arguments.fleet, family=arguments.family)
    name = arguments.planner or fleet.task.planner or DEFAULT_PLANNER
    choose = planner(name)
    steps = arguments.steps if arguments.steps is not None else fleet.task.max_steps or DEFAULT_STEPS
    if steps < 1:
        raise QuadloomError(f"--steps is {steps}", remedy="give 1 or more")
    context = _context(load_manifest(arguments.family), fleet, steps=steps)
    plan = choose(context)
    if arguments.explain:
        for device in context.devices:
            print(device_explanation(context, device, plan), end="\n\n")
    print(f"planner {name}, {steps} steps")
    print(plan_table(context, plan))
    return 0


def _context(manifest: "FamilyManifest", fleet: "FleetFile", *, steps: int) -> "RoundContext":
    from quadloom_server.planning.cost_model import reference_costs
    from quadloom_server.planning.round_plan import RoundContext

    return RoundContext(
        members=manifest.members,
        references=reference_costs(manifest),
        layers=manifest.model.layers,
        devices=_devices(manifest, fleet),
        steps=steps,
        rank=manifest.lora.rank,
    )


def _devices(manifest: "FamilyManifest", fleet: "FleetFile") -> list["PlannedDevice"]:
    """The fleet's devices as the server knows them before the first report.

    How many examples each will have is decided when the data is dealt out, so all weigh the same.
    """
    from quadloom_runtime.contract.wire import Capabilities
    from quadloom_runtime.emulation.fleet_file import fleet_devices
    from quadloom_runtime.emulation.profiles import MBIT_PER_S, profile
    from quadloom_runtime.errors import QuadloomError
    from quadloom_server.planning.cost_model import DeviceCost
    from quadloom_server.planning.memory_estimate import MemoryEstimate
    from quadloom_server.planning.round_plan import PlannedDevice

    every_format = tuple(each.format for each in manifest.formats)
    sections = [section for section in fleet.device for _ in range(section.count)]
    planned = []
    for device, section in zip(fleet_devices(fleet), sections, strict=True):
        kind = profile(section.profile)
        if section.rank is not None and section.rank > manifest.lora.rank:
            raise QuadloomError(
                f"{section.profile} has the rank {section.rank}, the family {manifest.lora.rank}",
                remedy="give a device the family's rank at most, or export the family with a higher --rank",
            )
        link = None if section.link_mbps is None else section.link_mbps * MBIT_PER_S
        cost = DeviceCost(
            slowdown=section.slowdown or kind.slowdown,
            download_bytes_per_s=link or kind.download_bytes_per_s,
            upload_bytes_per_s=link or kind.upload_bytes_per_s,
            rank_share=(section.rank or manifest.lora.rank) / manifest.lora.rank,
        )
        capabilities = Capabilities(
            formats=section.formats or every_format,
            memory_limit_bytes=device.memory_limit_bytes,
            threads=section.threads or kind.threads,
            examples=ASSUMED_EXAMPLES,
            profile=kind.name,
            rank=section.rank,
        )
        fetched = frozenset(each.key for each in manifest.members)
        memory = MemoryEstimate(rank=section.rank)
        planned.append(PlannedDevice(device.name, capabilities, cost=cost, memory=memory, fetched=fetched))
    return planned
