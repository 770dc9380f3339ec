"""What the updates of a round count in its aggregate, and how far each reaches, from what they rest on. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What an update rests on.

    Attributes:
        examples: different ones that its device trained on.
        held: examples that its device has.
        steps: training steps that it made, at least 1.
    """

    examples: int
    held: int
    steps: int


@dataclass(frozen=True)
class Share:
    """What an update counts.

    Attributes:
        weight: in the mean over all updates, which is over the sum of their weights.
        reach: what its change is multiplied with.
    """

    weight: float
    reach: float = 1.0


Weighting = Callable[[Sequence[Contribution]], list[Share]]
"""Of all updates of a round, in their order."""


def by_examples(contributions: Sequence[Contribution]) -> list[Share]:
    """By the different examples trained on: FedAvg (McMahan et al., arXiv 1602.05629)."""
    return [Share(each.examples) for each in contributions]


def by_steps(contributions: Sequence[Contribution]) -> list[Share]:
    """By examples held, each change divided by its steps and multiplied with their mean.

    Otherwise who makes more steps pulls the model its way (Wang et al., FedNova, arXiv 2007.07481, with the mean number
    of steps as the effective one).
    """
    held = sum(each.held for each in contributions)
    mean_steps = sum(each.held * each.steps for each in contributions) / max(1, held)
    return [Share(each.held, mean_steps / each.steps) for each in contributions]
