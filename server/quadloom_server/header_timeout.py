"""A connection whose request does not begin, never gets past its head, or goes on after its answer, is closed."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

READ_BYTES = 1 << 16


def protocol_with_header_timeout(timeout_s: float) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, with a bound on the time for which bytes come without a request that is worked on.

    That is the head of a request, or the rest of one that was refused early. uvicorn itself bounds only the silence
    between two requests.
    """

    class TimedHead(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            # asyncio takes in up to 256 KiB at once, four times what uvicorn wants to hold of a body.
            if hasattr(transport, "max_size"):
                transport.max_size = READ_BYTES
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def _watch_head(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget_head()
            elif self._head_timer is None:  # more bytes do not buy more time
                self._head_timer = self.loop.call_later(timeout_s, self.transport.close)

        def _forget_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return TimedHead
