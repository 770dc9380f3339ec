"""How much of the server one client may take."""

import math
from dataclasses import dataclass, fields

from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on requests, all positive.

    Attributes:
        requests_per_minute: signed requests of one device, on average; a minute's worth may come at once.
        unsigned_requests_per_minute: the same for requests without a signature, per address.
        json_bytes: size of a JSON body. That of an update follows from the family.
        json_depth: how deep a JSON body may nest.
        body_stall_s: seconds for which a body may stand still; also its grace before the rate below is asked for.
        body_bytes_per_s: average rate below which a body is cut off.
        header_timeout_s: seconds within which the head of a request must be complete.
        read_timeout_s: seconds for which a client may leave the buffer of its answer full.
        max_connections: connections at once; one more is answered 503 and closed.
    """

    requests_per_minute: float = 600.0
    unsigned_requests_per_minute: float = 600.0
    json_bytes: int = 64 * 1024
    json_depth: int = 16
    body_stall_s: float = 20.0
    body_bytes_per_s: float = 1000.0
    header_timeout_s: float = 20.0
    read_timeout_s: float = 60.0
    max_connections: int = 4096

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not 0 < value < math.inf:
                raise QuadloomError(f"{each.name} is {value}", remedy=f"give {each.name} a positive number")
