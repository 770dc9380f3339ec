from collections.abc import Callable
from itertools import islice

import httpx
import pytest

from quadloom_runtime.device.retry import PatienceExhaustedError, Retry, TryAgainError, waits


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept.append(seconds)

    def retry(self, *, patience_s: float) -> Retry:
        return Retry(patience_s=patience_s, sleep=self.sleep, clock=lambda: self.now_s)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    return attempt


def test_the_bound_of_the_waits_doubles_up_to_the_largest() -> None:
    assert list(islice(waits(lambda: 1.0), 8)) == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_the_jitter_is_full() -> None:
    assert list(islice(waits(lambda: 0.0), 3)) == [0, 0, 0]
    assert list(islice(waits(lambda: 0.5), 3)) == [0.25, 0.5, 1]


@pytest.mark.parametrize("error", [TryAgainError("HTTP 503"), httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    clock = Clock()
    assert clock.retry(patience_s=1000).run(failing(4, error)) == "done"
    assert len(clock.slept) == 4


def test_a_server_that_says_when_is_not_asked_sooner() -> None:
    clock = Clock()
    assert clock.retry(patience_s=1000).run(failing(3, TryAgainError("HTTP 429", after_s=7))) == "done"
    assert all(7 <= slept_s <= 7 + bound_s for slept_s, bound_s in zip(clock.slept, (0.5, 1, 2), strict=True))


def test_what_cannot_pass_is_not_tried_again() -> None:
    clock = Clock()
    with pytest.raises(KeyError):
        clock.retry(patience_s=1000).run(failing(1, KeyError("a bug")))
    assert clock.slept == []


def test_patience_ends_and_names_the_last_cause() -> None:
    clock = Clock()
    with pytest.raises(PatienceExhaustedError, match="HTTP 503"):
        clock.retry(patience_s=60).run(failing(10_000, TryAgainError("HTTP 503")))
    assert clock.now_s <= 60


def test_moving_forward_renews_patience() -> None:
    clock, reached = Clock(), [0]

    def attempt() -> str:
        reached[0] += 1
        if reached[0] == 200:
            return "done"
        raise httpx.ReadError("dropped")

    assert clock.retry(patience_s=1).run(attempt, progress=lambda: reached[0]) == "done"
    assert clock.now_s > 1, "all that time is more than patience, or the test shows nothing"


def test_each_wait_is_announced_with_its_cause() -> None:
    clock, said = Clock(), list[tuple[str, float]]()
    retry = Retry(
        patience_s=100,
        sleep=clock.sleep,
        clock=lambda: clock.now_s,
        on_wait=lambda cause, wait_s: said.append((cause, wait_s)),
    )
    retry.run(failing(2, httpx.ConnectError("Connection refused")))
    assert [wait_s for _, wait_s in said] == clock.slept
    assert all("Connection refused" in cause for cause, _ in said)
