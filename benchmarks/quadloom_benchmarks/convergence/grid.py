"""The learning rates that are tried, and which is chosen: the same grid for every method."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class Grid:
    """How rates are compared. Held-out text has no part in it.

    Attributes:
        rates: learning rates of LoRA; of a single one there is nothing to compare.
        validation_share: of the training text, set aside to judge them on.
        budget_share: of the race's virtual seconds that such a run lasts.
        seed: of these runs, none of the race's.
    """

    rates: tuple[float, ...]
    validation_share: float = 0.1
    budget_share: float = 0.5
    seed: int = 1000

    @property
    def open(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.rates) > 1


class Choice(Value):
    """A learning rate, and on which accuracies it rests.

    Attributes:
        scores: accuracy on validation text per rate tried, empty if there was nothing to choose.
        made_for: name of the race in whose setting these were tried, None for that of the race itself.
    """

    learning_rate: float = Field(gt=0)
    scores: tuple[tuple[float, float], ...] = ()
    made_for: str | None = None


def best(scores: Mapping[float, float], *, of: str) -> Choice:
    """The rate of the largest score, of equal ones the smallest.

    Args:
        scores: 0 where training diverged.
        of: what was trained, for the error.

    Raises:
        QuadloomError: training diverged at every rate.
    """
    if max(scores.values()) == 0:
        raise QuadloomError(
            f"{of} diverged at each of the learning rates {', '.join(f'{rate:g}' for rate in sorted(scores))}",
            remedy="give smaller ones",
        )
    rate = min(scores, key=lambda each: (-scores[each], each))
    return Choice(learning_rate=rate, scores=tuple(sorted(scores.items())))


def parse_rates(text: str) -> tuple[float, ...]:
    """``"1e-3,2e-3"`` -> (0.001, 0.002).

    Raises:
        QuadloomError: not a list of different numbers above 0.
    """
    try:
        rates = tuple(float(word) for word in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not min(rates) > 0 or max(rates) > 1 or len(set(rates)) < len(rates):
        raise QuadloomError(
            f"--learning-rates {text!r}", remedy="write different numbers above 0, at most 1, e.g. 1e-3,3e-3"
        )
    return rates
