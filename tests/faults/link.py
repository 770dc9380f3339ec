"""A TCP link that fails on purpose: between devices and a server whose address changes with every restart."""

import contextlib
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Literal

CHUNK_BYTES = 1 << 15
CONNECT_TIMEOUT_S = 5.0
POLL_S = 0.02


@dataclass(frozen=True)
class LinkFault:
    """The connection ends in the middle of one exchange.

    Attributes:
        request: how the request begins, e.g. ``GET /v1/blobs/``.
        nth: which request of that kind, counted over all devices and connections.
        side: whether the request or its answer is cut.
        after_bytes: what still gets through; 0 of an answer means: done by the server, and nobody hears of it.
    """

    request: str
    nth: int
    side: Literal["request", "answer"]
    after_bytes: int

    def __str__(self) -> str:
        return f"{self.side} of {self.request}:{self.nth} cut after {self.after_bytes} bytes"


class Link:
    """Listens for devices and carries what they say to the server, wherever it listens just now."""

    def __init__(self, faults: tuple[LinkFault, ...]) -> None:
        self.server_port: int | None = None
        self.cuts: list[LinkFault] = []
        self._faults = faults
        self._seen = dict.fromkeys({each.request for each in faults}, 0)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What devices are told."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, device: socket.socket) -> None:
        with device, contextlib.suppress(OSError), self._connect() as server:  # whatever breaks, breaks for both
            self._carry(device, server)

    def _connect(self) -> socket.socket:
        """Reach the server as soon as it is there again: devices spend the time of a test on work, not on backoff."""
        give_up_at_s = time.monotonic() + CONNECT_TIMEOUT_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.server_port or 0), CONNECT_TIMEOUT_S)
            except ConnectionRefusedError:
                if time.monotonic() > give_up_at_s:
                    raise
                time.sleep(POLL_S)

    def _carry(self, device: socket.socket, server: socket.socket) -> None:
        fault: LinkFault | None = None
        passed_bytes = 0
        while True:
            for source in select.select([device, server], [], [])[0]:
                data = source.recv(CHUNK_BYTES)
                if not data:
                    return
                if source is device and data[:5] in (b"GET /", b"PUT /", b"POST "):
                    fault, passed_bytes = self._fault_of(data), 0
                target, side = (server, "request") if source is device else (device, "answer")
                if fault is None or fault.side != side:
                    target.sendall(data)
                    continue
                target.sendall(data[: fault.after_bytes - passed_bytes])
                passed_bytes += len(data)
                if passed_bytes > fault.after_bytes:
                    self.cuts.append(fault)
                    return

    def _fault_of(self, head: bytes) -> LinkFault | None:
        with self._lock:
            for request in self._seen:
                if head.startswith(request.encode()):
                    self._seen[request] += 1
            return next(
                (
                    each
                    for each in self._faults
                    if head.startswith(each.request.encode()) and self._seen[each.request] == each.nth
                ),
                None,
            )
