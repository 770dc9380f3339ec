"""Kinds of devices have work in turn, each as often as is its share of the fleet.

For rounds that do not wait for all: who is fast comes back soon, and if a place were filled by whoever is free, or kept
for a kind of device, the text of the fast ones would be trained on several times as often as that of the slow. Where
labels go with the kind of device, training in turn has something of every label, though nobody knows the labels.
"""

from collections.abc import Iterable, Mapping


def next_kind(waiting: Iterable[str], *, had: Mapping[str, int], fleet: Mapping[str, int]) -> str:
    """The kind that will have had least of its share with one more place (D'Hondt); of equal ones the first.

    Args:
        waiting: kinds of which a device is free, at least one.
        had: how often devices of a kind have had work so far; none if it is missing.
        fleet: devices by kind.
    """
    return min(waiting, key=lambda kind: (had.get(kind, 0) + 1) / fleet[kind])
