"""The settings of the race, fixed before any of its runs: how much devices differ, and whether their labels do.

Speeds and memory limits are assumptions in the spirit of a fleet of Jetson TX2, Xavier NX and AGX Xavier boards; none
was measured on such a board. A memory limit is what a member of a six-layer family needs: who holds ``2,0`` can train
two layers unquantized, one or two more if most of them are quantized, and never all six.
"""

from collections.abc import Mapping
from typing import Final

from quadloom_runtime.errors import QuadloomError
from quadloom_server.simulation.fleet_file import GroupSection, SimulatedFleet, SplitSection, TimeSection

LINK_MBPS: Final = 50.0
SLOW_LINKS_MBPS: Final = (0.5, 2.0, 8.0)
DIFFERENT_RANKS: Final = (2, 4, 8, 16)
TIME: Final = TimeSection(spread=0.1, noise=0.05)


def _group(name: str, count: int, slowdown: float, holds: str, rank: int) -> GroupSection:
    return GroupSection(name=name, count=count, slowdown=slowdown, holds=holds, link_mbps=LINK_MBPS, rank=rank)


# The weakest first: with labels that go with the group, they have the first class nearly to themselves.
HETEROGENEITY: Final[Mapping[str, tuple[GroupSection, ...]]] = {
    "low": (
        _group("jetson-tx2", 12, 2.0, "2,0", 2),
        _group("jetson-nx", 16, 1.4, "4,0", 4),
        _group("jetson-agx", 12, 1.0, "6,0", 8),
    ),
    "middle": (
        _group("jetson-tx2", 12, 5.0, "2,0", 2),
        _group("jetson-nx", 16, 2.0, "4,0", 4),
        _group("jetson-agx", 12, 1.0, "6,0", 8),
    ),
    "high": (
        _group("phone-low", 6, 12.0, "1,0", 2),
        _group("raspberry-pi-4", 6, 8.0, "2,0", 2),
        _group("jetson-tx2", 8, 5.0, "2,0", 4),
        _group("phone-mid", 8, 3.0, "3,0", 4),
        _group("jetson-nx", 6, 2.0, "4,0", 8),
        _group("jetson-agx", 6, 1.0, "6,0", 8),
    ),
}
RANKS: Final = tuple(_group(f"rank-{rank}", 10, 1.0, "6,0", rank) for rank in DIFFERENT_RANKS)
"""Devices that differ in nothing but the rank that they can train. Of a family of rank 16."""
RANKS_BY_LINK: Final = tuple(
    group.model_copy(update={"link_mbps": LINK_MBPS * rank / DIFFERENT_RANKS[-1]})
    for group, rank in zip(RANKS, DIFFERENT_RANKS, strict=True)
)
"""Each trains the rank that its link has room for: rounds last about as long as with the smallest."""
SLOW_LINKS: Final = tuple(
    group.model_copy(update={"link_mbps": link})
    for group, link in zip(HETEROGENEITY["middle"], SLOW_LINKS_MBPS, strict=True)
)
"""The middle fleet where the link takes longer than the training."""

FLEETS: Final = {**HETEROGENEITY, "ranks": RANKS, "ranks-by-link": RANKS_BY_LINK, "links": SLOW_LINKS}
SPLITS: Final[Mapping[str, SplitSection]] = {
    "iid": SplitSection(split="iid"),
    "group": SplitSection(split="group", correlation=0.8),
}


def find_setting(name: str) -> SimulatedFleet:
    """The fleet of a setting, named by one of `FLEETS` and one of `SPLITS` such as ``middle-group``.

    Raises:
        QuadloomError: there is none.
    """
    names = [f"{fleet}-{split}" for fleet in FLEETS for split in SPLITS]
    if name not in names:
        raise QuadloomError(f"no setting is called {name!r}", remedy=f"choose one of: {', '.join(names)}")
    fleet, _, split = name.rpartition("-")
    return SimulatedFleet(devices_per_round=8, data=SPLITS[split], time=TIME, group=FLEETS[fleet])
