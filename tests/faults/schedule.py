"""What goes wrong in one run: a pure function of the seed, so that the seed in a failure brings it back."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.link import LinkFault

from quadloom_runtime.crash_points import DEVICE_CRASH_POINTS, SERVER_CRASH_POINTS

DEVICES = ("deep", "shallow")
CRASH_POINTS = (*SERVER_CRASH_POINTS, *DEVICE_CRASH_POINTS)
REQUESTS = ("POST /v1/devices", "GET /v1/blobs/", "PUT /v1/assignments/")
CUTS_AFTER_BYTES = (0, 1, 200, 40_000, 90_000)


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

    Seeds that follow one another begin with crash points that follow one another, so that every twenty visit them all.
    """
    random_of_seed = random.Random(seed)
    sure = CRASH_POINTS[seed % len(CRASH_POINTS)]
    crashes = {
        "server": _some(random_of_seed, SERVER_CRASH_POINTS),
        **{name: _some(random_of_seed, DEVICE_CRASH_POINTS) for name in DEVICES},
    }
    victim = "server" if sure in SERVER_CRASH_POINTS else random_of_seed.choice(DEVICES)
    crashes[victim] = (f"{sure}:1", *crashes[victim][:1])
    return Schedule(seed, crashes, tuple(_link_fault(random_of_seed) for _ in range(random_of_seed.randint(0, 2))))


def _some(random_of_seed: random.Random, points: tuple[str, ...]) -> tuple[str, ...]:
    count = random_of_seed.choice((0, 1, 1, 2))
    return tuple(f"{each}:{random_of_seed.choice((1, 1, 2))}" for each in random_of_seed.choices(points, k=count))


def _link_fault(random_of_seed: random.Random) -> LinkFault:
    return LinkFault(
        request=random_of_seed.choice(REQUESTS),
        nth=random_of_seed.randint(1, 4),
        side=random_of_seed.choice(("request", "answer")),
        after_bytes=random_of_seed.choice(CUTS_AFTER_BYTES),
    )
