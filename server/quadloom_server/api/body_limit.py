"""Bounds the size, the depth and the slowness of request bodies before anything works on them."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quadloom_runtime.json_depth import is_deeper_than
from quadloom_runtime.units import format_bytes
from quadloom_server.api.refusals import refusal
from quadloom_server.errors import RefusedRequestError
from quadloom_server.limits import Limits

UPDATE_PATH = re.compile(r"/v1/assignments/[^/]+/update")
CLOSE = {"Connection": "close"}


class BodyLimit:
    """ASGI middleware: a body too large, too deep or too slow is refused.

    An update is streamed through, so a route that reads it meets the refusal. Every other body is small: it is here as
    a whole before the route begins.

    Args:
        update_bytes: largest size of an update.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, update_bytes: int) -> None:
        self._app = app
        self._limits = limits
        self._update_bytes = update_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_update = UPDATE_PATH.fullmatch(scope["path"]) is not None
        limit_bytes = self._update_bytes if is_update else self._limits.json_bytes
        bounded = BoundedBody(receive, self._limits, limit_bytes=limit_bytes)
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            stated = headers.get(b"content-length", b"0")
            if stated.isdigit() and int(stated[:20]) > limit_bytes:
                raise too_large(limit_bytes)
            passed_on = bounded.receive if is_update else await self._whole(bounded)
        except RefusedRequestError as error:
            await bounded.drain()
            await refusal(error)(scope, receive, send)
            return
        await self._app(scope, passed_on, send)

    async def _whole(self, body: "BoundedBody") -> Receive:
        messages = [await body.receive()]
        while messages[-1].get("more_body", False):
            messages.append(await body.receive())
        content = b"".join(message.get("body", b"") for message in messages)
        if is_deeper_than(content, self._limits.json_depth):
            raise RefusedRequestError(
                f"the body nests deeper than {self._limits.json_depth} levels",
                remedy="send the message as the wire contract has it",
                code="json-too-deep",
                http_status=400,
            )
        is_gone = messages[-1]["type"] == "http.disconnect"
        pending: list[Message] = [messages[-1] if is_gone else {"type": "http.request", "body": content}]

        async def replay() -> Message:
            return pending.pop() if pending else await body.receive()

        return replay


class BoundedBody:
    """Receives the body of one request, and fails once it is too large or too slow."""

    def __init__(
        self, receive: Receive, limits: Limits, *, limit_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._receive, self._limits, self._limit_bytes, self._clock = receive, limits, limit_bytes, clock
        self._received_bytes = 0
        self._waited_s = 0.0
        self._is_complete = False

    async def receive(self) -> Message:
        """The next message of the request.

        Raises:
            RefusedRequestError: 413 or 408.
        """
        if self._is_complete:  # what follows is silence until the client goes, which is not slow
            return await self._receive()
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._limits.body_stall_s):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow(f"stood still for {self._limits.body_stall_s:g} s") from None
        # Only the client's time counts: while the server is busy with what came, nobody waits here.
        self._waited_s += self._clock() - began_s
        self._received_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._received_bytes > self._limit_bytes:
            raise too_large(self._limit_bytes)
        due_bytes = (self._waited_s - self._limits.body_stall_s) * self._limits.body_bytes_per_s
        if not self._is_complete and self._received_bytes < due_bytes:
            raise self._too_slow(f"came at less than {format_bytes(self._limits.body_bytes_per_s)} per second")
        return message

    async def drain(self) -> None:
        """Take in what the client still sends, within the same bounds: it then reads the refusal, not a reset."""
        self._received_bytes = 0
        with suppress(RefusedRequestError):
            while not self._is_complete:
                await self.receive()

    def _too_slow(self, problem: str) -> RefusedRequestError:
        self._is_complete = True
        return RefusedRequestError(
            f"the request body {problem} after {self._received_bytes} bytes",
            remedy="send it again over a better link",
            code="body-too-slow",
            http_status=408,
            headers=CLOSE,
        )


def too_large(limit_bytes: int) -> RefusedRequestError:
    """The refusal of a body above the limit."""
    return RefusedRequestError(
        f"the request body is larger than {limit_bytes} bytes",
        remedy="send an update of the assigned member's tensors only, in float32; other messages are short",
        code="body-too-large",
        http_status=413,
        headers=CLOSE,
    )
