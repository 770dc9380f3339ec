"""Try again with exponential backoff and full jitter, until patience runs out."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx

FIRST_BOUND_S = 0.5
LARGEST_BOUND_S = 30.0
R = TypeVar("R")


class TryAgainError(Exception):
    """The server is there but cannot answer just now.

    Args:
        after_s: seconds that it asked to be left alone.
    """

    def __init__(self, cause: str, *, after_s: float = 0.0) -> None:
        super().__init__(cause)
        self.after_s = after_s


class PatienceExhaustedError(Exception):
    """Nothing worked for as long as patience lasts; the cause is the last failure."""


def waits(uniform: Callable[[], float] = random.random) -> Iterator[float]:
    """Seconds between attempts: each uniform between 0 and a bound that doubles, so that no fleet comes in step."""
    bound_s = FIRST_BOUND_S
    while True:
        yield uniform() * bound_s
        bound_s = min(2 * bound_s, LARGEST_BOUND_S)


@dataclass(frozen=True)
class Retry:
    """How failed requests are repeated.

    Attributes:
        patience_s: how long attempts may fail in a row; whatever moves forward renews it.
        on_wait: told the cause and the seconds before each new attempt.
        sleep, clock: replaced in tests.
    """

    patience_s: float = 120.0
    on_wait: Callable[[str, float], None] = lambda _cause, _wait_s: None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self, attempt: Callable[[], R], *, progress: Callable[[], int] = lambda: 0) -> R:
        """The first success of `attempt`; `progress` is a number that grows while it gets somewhere.

        Raises:
            PatienceExhaustedError: it failed for too long.
        """
        reached, give_up_at_s, pauses = progress(), None, waits()
        while True:
            try:
                return attempt()
            except (httpx.TransportError, TryAgainError) as error:
                if give_up_at_s is None or progress() > reached:
                    reached, give_up_at_s, pauses = progress(), self.clock() + self.patience_s, waits()
                wait_s = next(pauses) + (error.after_s if isinstance(error, TryAgainError) else 0.0)
                cause = f"{type(error).__name__}: {error}" if isinstance(error, httpx.TransportError) else str(error)
                if self.clock() + wait_s > give_up_at_s:
                    raise PatienceExhaustedError(cause) from error
                self.on_wait(cause, wait_s)
                self.sleep(wait_s)
