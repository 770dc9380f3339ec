"""Bounds the size of request bodies before anything reads them whole."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quadloom_server.api.refusals import refusal
from quadloom_server.errors import RefusedRequestError


class BodyLimit:
    """ASGI middleware: a body above the limit is refused with 413, by its stated length or by what arrives."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self._limit_bytes:
            await refusal(self._too_large())(scope, receive, send)
            return
        received_bytes = 0

        async def counted() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> RefusedRequestError:
        return RefusedRequestError(
            f"the request body is larger than {self._limit_bytes} bytes",
            remedy="send an update of the assigned member's tensors only, in float32",
            code="body-too-large",
            http_status=413,
            headers={"Connection": "close"},
        )
