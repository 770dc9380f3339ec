"""Rates that hold in every window, told apart by client, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from quadloom_server.token_buckets import TokenBuckets


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@given(per_minute=st.floats(1, 600), pauses=st.lists(st.floats(0, 30), max_size=120))
def test_no_window_lets_through_more_than_a_minutes_worth_and_what_flows_in(
    per_minute: float, pauses: list[float]
) -> None:
    clock = Clock()
    buckets = TokenBuckets(per_minute, clock=clock)
    let_through: list[float] = []
    for pause_s in pauses:
        clock.now_s += pause_s
        if buckets.take("device") == 0:
            let_through.append(clock.now_s)
    for first, began_s in enumerate(let_through):
        for last in range(first, len(let_through)):
            allowed = per_minute + (let_through[last] - began_s) * per_minute / 60
            assert last - first + 1 <= allowed + 1e-6


@given(per_minute=st.floats(0.1, 600), asked=st.integers(1, 50))
def test_who_waits_as_told_is_let_in_and_not_much_sooner(per_minute: float, asked: int) -> None:
    clock = Clock()
    buckets = TokenBuckets(per_minute, clock=clock)
    wait_s = 0.0
    for _ in range(asked + int(per_minute) + 1):
        wait_s = buckets.take("device")
    assert wait_s > 0
    clock.now_s += wait_s * 0.9
    assert buckets.take("device") > 0
    clock.now_s += wait_s * 0.1 + 1e-6
    assert buckets.take("device") == 0


def test_one_client_does_not_use_up_anothers_tokens() -> None:
    buckets = TokenBuckets(2, clock=Clock())
    assert [buckets.take("greedy") > 0 for _ in range(4)] == [False, False, True, True]
    assert buckets.take("modest") == 0


def test_only_the_most_recent_clients_are_remembered() -> None:
    buckets = TokenBuckets(1, clock=Clock(), most_clients=2)
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0
    assert buckets.take("c") == 0, "b is forgotten, it has been silent for longest"
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0
