"""Nobody asks too often: devices are told apart by their signature, everybody else by their address."""

import ipaddress
import math

from starlette.types import ASGIApp, Receive, Scope, Send

from quadloom_server.api.authentication import is_for_devices
from quadloom_server.api.refusals import refusal
from quadloom_server.errors import RefusedRequestError
from quadloom_server.token_buckets import TokenBuckets

ENROL_PATH = "/v1/devices"
IPV6_NETWORK_BITS = 64
"""One subscriber has that many addresses to choose from."""


class AddressRate:
    """ASGI middleware, before authentication: requests without a signature are counted by address.

    A signed request is never held up by others from its address, be it a reverse proxy's: only those whose signature
    turns out to be wrong count. A signature is one where it will be verified; elsewhere it is a header like any other,
    which anybody can send. An enrolment counts as unsigned: anybody can make a key.
    """

    def __init__(self, app: ASGIApp, *, buckets: TokenBuckets) -> None:
        self._app = app
        self._buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = _network(scope["client"][0] if scope.get("client") else "")
        is_signed = _will_be_verified(scope["path"]) and any(name == b"signature" for name, _ in scope["headers"])
        if not is_signed and (wait_s := self._buckets.take(address)):
            await refusal(_too_many(f"the address {address}", wait_s))(scope, receive, send)
            return
        await self._app(scope, receive, send)
        if is_signed and "signature" not in scope.get("state", {}):
            self._buckets.take(address)


class DeviceRate:
    """ASGI middleware, after authentication: requests of one device are counted by its key."""

    def __init__(self, app: ASGIApp, *, buckets: TokenBuckets) -> None:
        self._app = app
        self._buckets = buckets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        signature = scope.get("state", {}).get("signature")
        if signature is not None and (wait_s := self._buckets.take(signature.key_id)):
            await refusal(_too_many(f"the device {signature.key_id}", wait_s))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _will_be_verified(path: str) -> bool:
    return is_for_devices(path) and path != ENROL_PATH


def _network(host: str) -> str:
    """What one client cannot change of its address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket, or a test
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))


def _too_many(who: str, wait_s: float) -> RefusedRequestError:
    return RefusedRequestError(
        f"{who} has sent too many requests",
        remedy=f"wait {math.ceil(wait_s)} seconds, as Retry-After says",
        code="too-many-requests",
        http_status=429,
        headers={"Retry-After": str(math.ceil(wait_s)), "Connection": "close"},
    )
