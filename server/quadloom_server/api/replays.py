"""No request of a device is done twice, and what is not done is not written down."""

from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from quadloom_server.api.authentication import target_of
from quadloom_server.api.refusals import refusal
from quadloom_server.errors import RefusedRequestError
from quadloom_server.trust.authentication import RequestAuthenticator


class OnceOnly:
    """ASGI middleware, after authentication and the rate of devices: notes what passed both.

    Noting is a write: a device that asks too often must not make the server write for each of its requests.
    """

    def __init__(self, app: ASGIApp, *, authenticator: RequestAuthenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        signature = scope.get("state", {}).get("signature")
        if signature is not None:
            try:
                await run_in_threadpool(
                    self._authenticator.note, signature, method=scope["method"], target=target_of(scope)
                )
            except RefusedRequestError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
