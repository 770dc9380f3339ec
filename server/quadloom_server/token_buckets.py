"""Token buckets, one per client: a rate that holds on average, with bursts of up to a minute's worth."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CLIENTS = 100_000


@dataclass
class _Bucket:
    tokens: float
    filled_at_s: float


class TokenBuckets:
    """Knows who has come too often. Not thread-safe: the event loop's own.

    Args:
        per_minute: tokens that flow into every bucket per minute, and what it holds at most.
        clock: seconds that never go back.
        most_clients: beyond that the one that has been silent for longest is forgotten, so that memory is bounded.
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float], most_clients: int = MOST_CLIENTS) -> None:
        self._capacity = max(1.0, per_minute)
        self._per_s = per_minute / 60
        self._clock = clock
        self._most_clients = most_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str) -> float:
        """Take a token of this client: 0 if there was one, else the seconds until there is one."""
        now_s = self._clock()
        bucket = self._buckets.setdefault(client, _Bucket(self._capacity, now_s))
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._most_clients:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._capacity, bucket.tokens + (now_s - bucket.filled_at_s) * self._per_s)
        bucket.filled_at_s = now_s
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._per_s
        bucket.tokens -= 1
        return 0.0
