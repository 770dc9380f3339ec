"""What goes wrong in one run: a pure function of the seed, so that the seed in a failure brings it back."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.faults.link import LinkFault

from quadloom_runtime.crash_points import DEVICE_CRASH_POINTS, SERVER_CRASH_POINTS

DEVICES = ("deep", "shallow")
CRASH_POINTS = (*SERVER_CRASH_POINTS, *DEVICE_CRASH_POINTS)
CUTS_AFTER_BYTES = {
    "POST /v1/devices": (0, 1, 200),
    "GET /v1/blobs/": (0, 1, 200, 40_000),
    "PUT /v1/assignments/": (0, 1, 200, 40_000, 90_000),
}
"""How a request begins, and how many bytes of it or of its answer may still get through."""
ONCE_PER_LIFE = ("enrolled-before-first-check-in",)


@dataclass(frozen=True)
class Schedule:
    """The faults of one run.

    Attributes:
        crashes: per process, which crash point kills each of its lives, in order; ``NAME:N`` as the environment has it.
        link_faults: connections that break.
    """

    seed: int | None
    crashes: Mapping[str, tuple[str, ...]]
    link_faults: tuple[LinkFault, ...]

    def __str__(self) -> str:
        words = [f"{process} dies at {crash}" for process, crashes in self.crashes.items() for crash in crashes]
        return f"seed {self.seed}: " + ", ".join([*words, *map(str, self.link_faults)])


UNDISTURBED = Schedule(None, {}, ())


def schedule(seed: int) -> Schedule:
    """Two to five deaths and up to two broken connections.

    Ten seeds that follow one another visit every crash point: ten of the server, ten of devices.
    """
    random_of_seed = random.Random(seed)
    crashes = {
        "server": _crashes(random_of_seed, SERVER_CRASH_POINTS, seed),
        "deep": _crashes(random_of_seed, DEVICE_CRASH_POINTS, seed),
        "shallow": tuple(
            f"{each}:1" for each in random_of_seed.sample(DEVICE_CRASH_POINTS, random_of_seed.randint(0, 1))
        ),
    }
    return Schedule(seed, crashes, tuple(_link_fault(random_of_seed) for _ in range(random_of_seed.randint(0, 2))))


def _crashes(random_of_seed: random.Random, points: Sequence[str], seed: int) -> tuple[str, ...]:
    """One death, or two in the order of the work: the later point comes again in the round after the first."""
    first, second = sorted((seed % len(points), (seed + len(points) // 2) % len(points)))
    if random_of_seed.random() < 0.5:
        return f"{points[first]}:1", f"{points[second]}:1"
    point = points[seed % len(points)]
    nth = 1 if point in ONCE_PER_LIFE else random_of_seed.randint(1, 2)
    return (f"{point}:{nth}",)


def _link_fault(random_of_seed: random.Random) -> LinkFault:
    request = random_of_seed.choice(tuple(CUTS_AFTER_BYTES))
    return LinkFault(
        request=request,
        nth=random_of_seed.randint(1, 4),
        side=random_of_seed.choice(("request", "answer")),
        after_bytes=random_of_seed.choice(CUTS_AFTER_BYTES[request]),
    )
