"""Kinds of devices take turns, so that each has its share of the time of the places at which devices train.

For rounds that do not wait for all: who is fast comes back soon, and if a place were filled by whoever is free, the
text of the fast ones would be trained on several times as often as that of the slow. If each kind had work equally
often, the slow ones would have most places most of the time. So turns are by time, as those of processes are in a fair
scheduler: of ten places three are for a kind that is three tenths of the fleet, and how much it does there is up to it.
Where labels go with the kind of device, something of every label is then under way, though nobody knows the labels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Held:
    """What a kind of device has had of the places.

    Attributes:
        works: that are over.
        works_s: seconds for which these held places, together.
        open_s: for each device that is at work, seconds for which it has been.
    """

    works: int = 0
    works_s: float = 0.0
    open_s: tuple[float, ...] = ()

    def with_one_more(self, *, for_s: float = 0.0) -> "Held":
        """With one more device that is at work, for so many seconds already."""
        return replace(self, open_s=(*self.open_s, for_s))


def next_kind(waiting: Iterable[str], *, held: Mapping[str, Held], fleet: Mapping[str, int]) -> str:
    """The kind that will have had least of its share of the time with one more place; of equal ones the first.

    Work that is not over counts for as long as those of its kind usually are, or for as long as it already is.

    Args:
        waiting: kinds of which a device is free, at least one.
        held: by kind; nothing if it is missing.
        fleet: devices by kind.
    """
    everyone = Held(sum(each.works for each in held.values()), sum(each.works_s for each in held.values()))

    def share(kind: str) -> float:
        had = held.get(kind, Held())
        # A kind of which none is done may be slower than all others.
        usual_s = _usual_s(had) if had.works else max([_usual_s(everyone), *had.open_s])
        return (had.works_s + sum(max(each, usual_s) for each in had.open_s) + usual_s) / fleet[kind]

    return min(waiting, key=share)


def _usual_s(held: Held) -> float:
    """Mean seconds of a work that is over; any positive number will do before the first."""
    return held.works_s / held.works if held.works else 1.0
