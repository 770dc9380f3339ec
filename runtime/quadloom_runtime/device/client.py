"""The HTTP client of a device: retries with jitter, downloads that resume, a link no faster than the profile's."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from pydantic import ValidationError

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.wire import (
    Capabilities,
    CheckInRequest,
    CheckInResponse,
    EnrolRequest,
    EnrolResponse,
    ErrorResponse,
    FailureReport,
    Message,
    ReportResponse,
)
from quadloom_runtime.errors import QuadloomError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 16
JSON = {"content-type": "application/json"}
M = TypeVar("M", bound=Message)


class ServerUnreachableError(QuadloomError):
    """The server did not answer within all attempts."""


class RefusedError(QuadloomError):
    """The server answered and said no.

    Args:
        status: HTTP status.
        error: what the server wrote.
    """

    def __init__(self, status: int, error: ErrorResponse) -> None:
        super().__init__(f"the server refused ({status} {error.code}): {error.cause}", remedy=error.remedy)
        self.status = status
        self.code = error.code


@dataclass(frozen=True)
class Link:
    """Speed of the emulated link, None for as fast as it goes."""

    download_bytes_per_s: float | None = None
    upload_bytes_per_s: float | None = None


@dataclass
class Traffic:
    """Bytes that really crossed the link."""

    down_bytes: int = 0
    up_bytes: int = 0


@dataclass
class ServerClient:
    """Speaks the protocol of `contract.wire` with one server.

    Attributes:
        patience_s: how long one request is tried again before giving up.
        sleep: replaced in tests.
    """

    server: str
    link: Link = Link()
    patience_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.server, timeout=TIMEOUT_S)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def enrol(self, name: str, capabilities: Capabilities) -> EnrolResponse:
        """Introduce this device; again under the same name updates its capabilities."""
        return self._message("POST", "/v1/devices", EnrolRequest(name=name, capabilities=capabilities), EnrolResponse)

    def check_in(self, device_id: str) -> CheckInResponse:
        """Ask for work."""
        return self._message("POST", f"/v1/devices/{device_id}/check-in", CheckInRequest(), CheckInResponse)

    def report_update(self, assignment_id: str, content: bytes) -> ReportResponse:
        """Send an update; sending it again is safe."""
        self._pace(len(content), self.link.upload_bytes_per_s)
        path = f"/v1/assignments/{assignment_id}/update"
        headers = {"content-type": "application/vnd.safetensors"}
        return _parse(self._request("PUT", path, content=content, headers=headers), ReportResponse)

    def report_failure(self, assignment_id: str, report: FailureReport) -> ReportResponse:
        """Say that an assignment cannot be done."""
        return self._message("POST", f"/v1/assignments/{assignment_id}/failure", report, ReportResponse)

    def fetch(self, sha256: str, cache: BlobCache) -> int:
        """Bring a blob into the cache, continuing an earlier download; returns the bytes that crossed the link.

        Raises:
            QuadloomError: the server sends other content than it names, twice.
        """
        if cache.holds(sha256):
            return 0
        before = self.traffic.down_bytes
        for _ in range(2):
            self._retrying(lambda: self._download(sha256, cache))
            if cache.accept_partial(sha256):
                return self.traffic.down_bytes - before
        raise QuadloomError(
            f"blob {sha256[:12]}... has another SHA-256 than its name, downloaded twice from {self.server}",
            remedy="check the server's family with `quadloom inspect DIR --verify`, or a proxy in between",
        )

    def _download(self, sha256: str, cache: BlobCache) -> None:
        partial = cache.partial_path(sha256)
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"range": f"bytes={have}-"} if have else {}
        with self._http.stream("GET", f"/v1/blobs/{sha256}", headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # everything is here already; the hash decides
            if not response.is_success:
                response.read()
                _raise_for(response)
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            with partial.open("ab" if resumed else "wb") as file:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                    self.traffic.down_bytes += len(chunk)
                    self._pace(len(chunk), self.link.download_bytes_per_s)

    def _message(self, method: str, path: str, message: Message, answer: type[M]) -> M:
        return _parse(self._request(method, path, content=message.model_dump_json().encode(), headers=JSON), answer)

    def _request(self, method: str, path: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        def send() -> httpx.Response:
            response = self._http.request(method, path, content=content, headers=headers)
            if not response.is_success:
                _raise_for(response)
            return response

        response = self._retrying(send)
        self.traffic.up_bytes += len(content)
        self.traffic.down_bytes += len(response.content)
        return response

    def _retrying(self, attempt: Callable[[], "R"]) -> "R":
        deadline = time.monotonic() + self.patience_s
        for wait_s in waits(random.random):
            try:
                return attempt()
            except (httpx.TransportError, _TryAgainError) as error:
                if time.monotonic() + wait_s > deadline:
                    raise ServerUnreachableError(
                        f"the server {self.server} did not answer for {self.patience_s:.0f} s: "
                        f"{type(error).__name__}: {error}",
                        remedy="check that `quadloom serve` runs there and that --server names its address",
                    ) from error
                self.sleep(wait_s)
        raise AssertionError("waits are endless")

    def _pace(self, size_bytes: int, bytes_per_s: float | None) -> None:
        if bytes_per_s:
            self.sleep(size_bytes / bytes_per_s)


R = TypeVar("R")


class _TryAgainError(Exception):
    """The server is there but cannot answer just now."""


def waits(uniform: Callable[[], float]) -> Iterator[float]:
    """Exponential backoff with full jitter: each wait is uniform between 0 and a bound that doubles."""
    bound = FIRST_WAIT_S
    while True:
        yield uniform() * bound
        bound = min(2 * bound, LONGEST_WAIT_S)


def _raise_for(response: httpx.Response) -> None:
    if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise _TryAgainError(f"HTTP {response.status_code}")
    try:
        error = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        error = ErrorResponse(
            code="unknown", cause=response.text[:200] or "no explanation", remedy="check that --server is Quadloom's"
        )
    raise RefusedError(response.status_code, error)


def _parse(response: httpx.Response, answer: type[M]) -> M:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise QuadloomError(
            f"the server's answer is not a {answer.__name__}: {error}",
            remedy="run the same Quadloom release on server and device",
        ) from None
