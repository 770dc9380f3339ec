"""Which ways in a server offers: TLS with the given certificate, or plain HTTP where nobody else is on the way."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from quadloom_runtime.connection import is_loopback
from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class Certificate:
    """The files that a server shows to its clients: the certificate with those of its authorities, and its key."""

    certificate: Path
    key: Path


def check_way_in(host: str, certificate: Path | None, key: Path | None, *, unencrypted: bool) -> Certificate | None:
    """The certificate to serve with, None for plain HTTP.

    Args:
        unencrypted: whether the operator accepts plain HTTP beyond this machine.

    Raises:
        QuadloomError: one of the two files is missing or unusable, or others would be on the way.
    """
    if (certificate is None) != (key is None):
        raise QuadloomError(
            "--tls-cert and --tls-key belong together, and only one of them is given", remedy="give both, or none"
        )
    if certificate is not None and key is not None:
        _check_usable(certificate, key)
        return Certificate(certificate, key)
    if not is_loopback(host) and not unencrypted:
        raise QuadloomError(
            f"--host {host} lets other machines in, and without a certificate everybody on the way reads along",
            remedy="give --tls-cert and --tls-key, put a TLS proxy in front of --host 127.0.0.1, "
            "or accept it with --allow-unencrypted-http",
        )
    return None


def _check_usable(certificate: Path, key: Path) -> None:
    try:
        # An encrypted key would ask for its password on the terminal; an empty one is refused instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise QuadloomError(
            f"the certificate {certificate} with the key {key} cannot be used: {error}",
            remedy="give a PEM certificate and the unencrypted PEM key that belongs to it",
        ) from None
