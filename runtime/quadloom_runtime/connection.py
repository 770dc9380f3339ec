"""How to reach a server: over TLS with a certificate that can be verified, or unencrypted on this machine only."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx

from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is and what makes the way to it safe enough.

    Attributes:
        url: e.g. ``https://fleet.example:8765``.
        tls_ca: certificates (PEM) of further authorities to trust, beside the public ones.
        allow_unencrypted_http: let everybody on the way read along, also beyond this machine.

    Raises:
        QuadloomError: `url` is not an address, or one that needs `allow_unencrypted_http`.
    """

    url: str
    tls_ca: Path | None = None
    allow_unencrypted_http: bool = False

    def __post_init__(self) -> None:
        url = _parsed(self.url)
        if url.scheme == "http" and not is_loopback(url.host) and not self.allow_unencrypted_http:
            raise QuadloomError(
                f"{self.url!r} is unencrypted and leads to another machine",
                remedy="use https://, or accept with --allow-unencrypted-http that others read along and alter",
            )

    def connect(self, *, timeout_s: float, auth: httpx.Auth | None = None) -> httpx.Client:
        """A client for this server. It verifies certificates; there is no way to make it stop.

        Raises:
            QuadloomError: `tls_ca` cannot be read.
        """
        url = _parsed(self.url)
        # What stays on this machine must not take the way over a proxy.
        by_environment = not is_loopback(url.host)
        return httpx.Client(
            base_url=url, timeout=timeout_s, auth=auth, verify=self._trusted(), trust_env=by_environment
        )

    def _trusted(self) -> ssl.SSLContext:
        context = httpx.create_ssl_context()
        if self.tls_ca is not None:
            try:
                context.load_verify_locations(cafile=self.tls_ca)
            except (OSError, ssl.SSLError) as error:
                raise QuadloomError(
                    f"{self.tls_ca} holds no certificates that can be read: {error}",
                    remedy="give the authority's certificate as a PEM file",
                ) from None
        return context


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificate_problem(error: BaseException) -> str | None:
    """Why the server's certificate was refused, None if a connection failed for another reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        cause = cause.__cause__ or cause.__context__
    return None


def _parsed(server: str) -> httpx.URL:
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL as error:
        raise QuadloomError(
            f"{server!r} is not an address: {error}", remedy="give one like https://HOST:PORT"
        ) from None
    if url.scheme not in ("http", "https") or not url.host:
        raise QuadloomError(f"{server!r} is not an HTTP address", remedy="give one like https://HOST:PORT")
    return url
