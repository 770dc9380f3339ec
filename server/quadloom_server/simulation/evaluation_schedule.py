"""When the parameters of a simulated run are judged: every so many rounds, or at virtual times.

Both answer the same question: parameters stand from the end of their round to the end of the next; are they judged?
Judging at the same times makes methods comparable whose rounds differ in length: judged by rounds, a method with short
rounds would be looked at more often, and sooner.
"""

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.errors import QuadloomError


class EveryRounds(Value):
    """After each `rounds`-th round, the start being round 0."""

    rounds: int = Field(default=1, ge=1)

    def judges(self, index: int, *, from_s: float, until_s: float) -> bool:
        """Whether the parameters after round `index` are judged; they stand from `from_s` until before `until_s`."""
        del from_s, until_s
        return index % self.rounds == 0


def _rising(times_s: tuple[float, ...]) -> tuple[float, ...]:
    if list(times_s) != sorted(set(times_s)):
        raise ValueError("the times do not rise")
    return times_s


class AtTimes(Value):
    """At these virtual seconds: what is judged are the parameters of the last round that has closed by then."""

    times_s: Annotated[tuple[float, ...], Field(min_length=1), AfterValidator(_rising)]

    def judges(self, index: int, *, from_s: float, until_s: float) -> bool:
        """As in `EveryRounds`. Parameters that stand at several of the times are judged once."""
        del index
        return any(from_s <= time_s < until_s for time_s in self.times_s)


EvaluationSchedule = EveryRounds | AtTimes


def equally_spaced(evaluations: int, *, budget_s: float) -> AtTimes:
    """So many times in a budget, its end among them, its beginning not.

    Raises:
        QuadloomError: not a number of times.
    """
    if evaluations < 1:
        raise QuadloomError(f"--evaluations is {evaluations}", remedy="give --evaluations a value of at least 1")
    # linspace ends with its end exactly: what is judged then is what the budget ends with.
    return AtTimes(times_s=tuple(np.linspace(0.0, budget_s, evaluations + 1)[1:].tolist()))


def closer_early(evaluations: int, *, budget_s: float) -> AtTimes:
    """So many times in a budget, its end among them, the closer the earlier: where accuracy still rises fast.

    The k-th of n is at ``budget (k / n)^1.5``.

    Raises:
        QuadloomError: not a number of times.
    """
    shares = equally_spaced(evaluations, budget_s=1.0).times_s
    return AtTimes(times_s=tuple(budget_s * share**1.5 for share in shares))
