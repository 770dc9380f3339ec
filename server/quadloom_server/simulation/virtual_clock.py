"""When a round of a simulated fleet ends. Nothing here ever waits.

Two settings lead from synchronous to asynchronous rounds, see `Closing`. With 0 as the largest staleness every round
waits for all of its devices; with 1 update and a large staleness every update is a round of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from quadloom_runtime.contract.manifest import Value


class Closing(Value):
    """When a round closes: once enough updates are in, but not before those that would become too stale.

    Attributes:
        updates: that are enough; None for all under way.
        largest_staleness: rounds by which an update may be late; its round waits for one that has been under way so
            long.
    """

    updates: int | None = Field(default=None, ge=1)
    largest_staleness: int = Field(default=0, ge=0)


SYNCHRONOUS: Final = Closing()


@dataclass(frozen=True)
class Arrival:
    """An update that is under way.

    Attributes:
        started_round: round in which its device got work.
        at_s: virtual seconds at which it arrives.
    """

    device: str
    started_round: int
    at_s: float


def staleness(arrival: Arrival, *, round_index: int) -> int:
    """Rounds that have closed since the update's device got its parameters; 0 for one of this very round."""
    return round_index - arrival.started_round


def closing_time_s(arrivals: Sequence[Arrival], closing: Closing, *, round_index: int) -> float:
    """Virtual seconds at which the round closes.

    Args:
        arrivals: every update under way, at least one.
    """
    times = sorted(each.at_s for each in arrivals)
    enough = times[min(closing.updates or len(times), len(times)) - 1]
    due = [each.at_s for each in arrivals if staleness(each, round_index=round_index) >= closing.largest_staleness]
    return max([enough, *due])
