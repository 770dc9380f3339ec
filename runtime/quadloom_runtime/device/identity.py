"""Who a device is: a key that it makes once and that never leaves its folder."""

import hashlib
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from quadloom_runtime.contract.signatures import NONCE_BYTES, sign
from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.keys import create_private_key, load_private_key, public_key_text

KEY_NAME = "device.key"
CONTENT_SHA256 = "content_sha256"
"""Request extension: the hash of a body that is not to be read whole before it is sent."""


def device_key(folder: Path) -> Ed25519PrivateKey:
    """The key of the device that lives in this folder, made at its first start.

    Raises:
        QuadloomError: the file cannot be read or written, or holds no key.
    """
    path = folder / KEY_NAME
    if not path.exists():
        try:
            return create_private_key(path)
        except QuadloomError:
            if not path.exists():
                raise
    return load_private_key(path)


class RequestSigner(httpx.Auth):
    """Signs each request as it goes out, with a nonce and a time of its own: also one that is tried again.

    Attributes:
        public_key: the text of the key.
        key_id: what the server knows the key by.
    """

    def __init__(self, key: Ed25519PrivateKey, *, clock: Callable[[], float] = time.time) -> None:
        self.public_key = public_key_text(key.public_key())
        self.key_id = self.public_key
        self._key, self._clock = key, clock
        self._offset_s = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request; if this clock is wrong, take over the server's and send it once more."""
        self._sign(request)
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            response.read()
            server_time_s = _server_time(response)
            if server_time_s is not None:
                self._offset_s = server_time_s - self._clock()
                self._sign(request)
                yield request

    def _sign(self, request: httpx.Request) -> None:
        fields = sign(
            self._key,
            method=request.method,
            target=request.url.raw_path.decode("ascii"),
            content_sha256=request.extensions.get(CONTENT_SHA256) or hashlib.sha256(request.read()).digest(),
            key_id=self.key_id,
            created_s=int(self._clock() + self._offset_s),
            nonce=os.urandom(NONCE_BYTES),
        )
        request.headers.update(fields)


def _server_time(response: httpx.Response) -> float | None:
    """The server's clock, if a wrong clock is what it complains about."""
    try:
        error = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        return None
    return error.server_time_s if error.code == "clock-skew" else None
