"""Nobody gets past this who is not known: device requests are signed, admin requests carry the admin token."""

import hashlib
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quadloom_runtime.contract.signatures import CONTENT_DIGEST, SIGNATURE, SIGNATURE_INPUT, RequestSignature
from quadloom_server.api.refusals import refusal
from quadloom_server.errors import RefusedRequestError
from quadloom_server.trust.admin_token import AdminToken
from quadloom_server.trust.authentication import RequestAuthenticator

API, ADMIN_API, OPEN_API = "/v1/", "/v1/admin/", "/v1/task"
WITHOUT_BODY = ("GET", "HEAD")


def is_for_devices(path: str) -> bool:
    """Whether a request to this path is let through by a device's signature, and by nothing else."""
    return path.startswith(API) and path != OPEN_API and not path.startswith(ADMIN_API)


def target_of(scope: Scope) -> str:
    """Path and query as they stand in the request line, which is what is signed."""
    query: str = scope["query_string"].decode("latin-1")
    path: str = scope["raw_path"].decode("latin-1")
    return f"{path}?{query}" if query else path


class Authentication:
    """ASGI middleware: below `API` only `OPEN_API` is for everybody. Routes see a request only after it has passed.

    The signature is checked before the body is read, and its digest while it is read: a route that reads the body to
    its end has the body that was signed.
    """

    def __init__(self, app: ASGIApp, *, authenticator: RequestAuthenticator, admin_token: AdminToken) -> None:
        self._app = app
        self._authenticator = authenticator
        self._admin_token = admin_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or not scope["path"].startswith(API) or scope["path"] == OPEN_API:
            await self._app(scope, receive, send)
            return
        state, body = scope.setdefault("state", {}), _Body(receive)
        try:
            if scope["path"].startswith(ADMIN_API):
                self._require_admin(scope)
                state["is_admin"] = True
            else:
                state["signature"] = await run_in_threadpool(self._signature, scope)
                body.signed_sha256 = state["signature"].content_sha256
                if scope["method"] in WITHOUT_BODY:
                    await body.read_ahead()
        except RefusedRequestError as error:
            await body.drain()
            await refusal(error)(scope, receive, send)
            return
        await self._app(scope, body.receive, send)

    def _signature(self, scope: Scope) -> RequestSignature:
        headers = Headers(scope=scope)
        return self._authenticator.authenticate(
            method=scope["method"],
            target=target_of(scope),
            content_digest=headers.getlist(CONTENT_DIGEST),
            signature_input=headers.getlist(SIGNATURE_INPUT),
            signature=headers.getlist(SIGNATURE),
        )

    def _require_admin(self, scope: Scope) -> None:
        given = Headers(scope=scope).getlist("authorization")
        if not given:
            raise _not_admin("this needs the admin token", code="admin-token-required")
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not self._admin_token.is_token(token.encode("latin-1")):
            raise _not_admin("this is not the admin token", code="invalid-admin-token")


def _not_admin(cause: str, *, code: str) -> RefusedRequestError:
    return RefusedRequestError(
        cause,
        remedy="send the content of the file admin-token in the server's state folder as `Authorization: Bearer TOKEN`",
        code=code,
        http_status=401,
        headers={"WWW-Authenticate": "Bearer"},
    )


class _Body:
    """A body while it is received. Its last part is handed on only if the whole has the digest that was signed."""

    def __init__(self, receive: Receive) -> None:
        self.signed_sha256: bytes | None = None
        self._receive = receive
        self._received = hashlib.sha256()
        self._is_complete = False
        self._ahead: Message | None = None

    async def receive(self) -> Message:
        """The next part of the body, or what comes after it."""
        if self._ahead is not None:
            message, self._ahead = self._ahead, None
            return message
        message = await self._receive()
        if not self._is_complete:
            self._received.update(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._is_complete and message["type"] == "http.request":
                self._check()
        return message

    async def read_ahead(self) -> None:
        """Receive all of it for a route that would not; nothing is kept but the fact that it has ended."""
        while not self._is_complete:
            message = await self.receive()
        self._ahead = message

    async def drain(self) -> None:
        """Let the client finish sending, so that it reads the refusal instead of a broken connection."""
        with suppress(RefusedRequestError):
            while not self._is_complete:
                await self.receive()

    def _check(self) -> None:
        if self.signed_sha256 not in (None, self._received.digest()):
            raise RefusedRequestError(
                f"the body has another SHA-256 than the signed one: {self._received.hexdigest()}",
                remedy="send the body that was signed, unchanged and whole",
                code="body-digest-mismatch",
                http_status=400,
            )


# The middleware checks both; these only say so in the OpenAPI document.
SIGNED = APIKeyHeader(
    name="Signature",
    scheme_name="device-signature",
    auto_error=False,
    description="with Signature-Input and Content-Digest: HTTP Message Signatures (RFC 9421) by the device's key",
)
BY_ADMIN_TOKEN = HTTPBearer(
    scheme_name="admin-token", auto_error=False, description="the file admin-token in the server's state folder"
)


def signature_of(request: Request, _stated: Annotated[str | None, Depends(SIGNED)]) -> RequestSignature:
    """The verified signature of the request."""
    found: RequestSignature = request.state.signature
    return found


VerifiedSignature = Annotated[RequestSignature, Depends(signature_of)]


def own_device_id(device_id: str, signature: VerifiedSignature) -> str:
    """The device in the path, which must be the one that signed.

    Raises:
        RefusedRequestError: 403, it is another one.
    """
    if device_id != signature.key_id:
        raise RefusedRequestError(
            f"{signature.key_id!r} signed a request for the device {device_id[:100]!r}",
            remedy="act on the device whose key signs, and on no other",
            code="not-your-device",
            http_status=403,
        )
    return device_id


OwnDeviceId = Annotated[str, Depends(own_device_id)]


def require_admin(
    request: Request, _stated: Annotated[HTTPAuthorizationCredentials | None, Depends(BY_ADMIN_TOKEN)]
) -> None:
    """Fails if the middleware has not seen the admin token: an admin route that it does not guard must not answer."""
    if request.state.is_admin is not True:
        raise AssertionError("an admin route was reached without the admin token")
