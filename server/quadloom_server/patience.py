"""How long a connection may keep the server waiting: for a request, or for its client to take an answer."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

READ_BYTES = 1 << 16


def protocol_with_patience(*, header_timeout_s: float, read_timeout_s: float) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, with bounds on a client's slowness; uvicorn itself bounds only the silence between two
    requests.

    Args:
        header_timeout_s: for which bytes may come without a request that is worked on: the head of a request, or the
            rest of one that was refused early.
        read_timeout_s: for which the buffer of an answer may stay full. The client has then taken less than about
            48 KiB; the connection is dropped with what is still in the buffer.
    """

    class Patient(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _full_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            # asyncio takes in up to 256 KiB at once, four times what uvicorn wants to hold of a body.
            if hasattr(transport, "max_size"):
                transport.max_size = READ_BYTES
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_head()
            self._forget_full()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._full_timer = self.loop.call_later(read_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forget_full()

        def _watch_head(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._forget_head()
            elif self._head_timer is None:  # more bytes do not buy more time
                self._head_timer = self.loop.call_later(header_timeout_s, self.transport.close)

        def _forget_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _forget_full(self) -> None:
            if self._full_timer is not None:
                self._full_timer.cancel()
                self._full_timer = None

    return Patient
