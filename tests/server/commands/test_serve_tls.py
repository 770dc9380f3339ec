"""TLS with real certificates on real sockets: what a client trusts, and what it refuses."""

import datetime
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from quadloom_runtime.administration import AdminClient, read_secret
from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.connection import ServerAddress
from quadloom_runtime.contract.administration import IssueTokenRequest
from quadloom_runtime.contract.wire import Capabilities
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.identity import device_key
from quadloom_runtime.device.retry import Retry
from quadloom_runtime.errors import QuadloomError

CAPABILITIES = Capabilities(formats=("onnx",), memory_limit_bytes=10**8, threads=1, examples=10)
DAY = datetime.timedelta(days=1)


class Authority:
    """A private authority that issues certificates into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True)
        self.certificate = folder / "ca.pem"
        self._folder, self._name, self._key = folder, name, ec.generate_private_key(ec.SECP256R1())
        own = self._builder(self._key, name).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self._sign(own, "ca.pem")

    def issue(self, *hosts: str, valid_for: datetime.timedelta = DAY) -> list[str]:
        """A certificate for these hosts; returns the options that serve with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        self._sign(self._builder(key, "server", valid_for=valid_for).add_extension(names, False), "server.pem")
        content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self._folder / "server.key").write_bytes(content)
        return ["--tls-cert", str(self._folder / "server.pem"), "--tls-key", str(self._folder / "server.key")]

    def _builder(
        self, key: ec.EllipticCurvePrivateKey, subject: str, *, valid_for: datetime.timedelta = DAY
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(tz=datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(subject))
            .issuer_name(_common_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + valid_for)
        )

    def _sign(self, builder: x509.CertificateBuilder, name: str) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        (self._folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "Fleet CA")


@pytest.fixture
def start(serve: Callable[..., Any], family_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Start a server with these options; returns its address."""

    def start_server(options: list[str]) -> str:
        return str(serve(family_folder, tmp_path / "state", *options).client.base_url).rstrip("/")

    return start_server


def device(url: str, folder: Path, authority: Authority | None) -> ServerClient:
    address = ServerAddress(url, tls_ca=None if authority is None else authority.certificate)
    return ServerClient(address, device_key(folder), retry=Retry(patience_s=60))


def test_a_device_works_over_tls_with_a_private_authority(
    start: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    url = start(authority.issue("127.0.0.1"))
    assert url.startswith("https://")
    admin_token = read_secret(tmp_path / "state/admin-token", what="admin token")
    with AdminClient(ServerAddress(url, authority.certificate), admin_token) as owner:
        token = owner.issue_token(IssueTokenRequest(max_uses=1)).token
    client = device(url, tmp_path / "device", authority)
    enrolled = client.enrol("phone", CAPABILITIES, token=token)
    assert client.check_in(enrolled.device_id).assignment is not None
    cache = BlobCache(tmp_path / "blobs")
    client.download(enrolled.manifest_sha256, cache, largest_bytes=1 << 30)
    client.close()
    assert cache.path(enrolled.manifest_sha256).read_bytes() == (tmp_path / "family/family.json").read_bytes()


def refusal(client: ServerClient) -> str:
    """Why the client does not trust the server; it must not wait for that to change."""
    with pytest.raises(QuadloomError, match="is not trusted") as caught:
        client.enrol("phone", CAPABILITIES)
    client.close()
    return caught.value.cause


def test_an_unknown_authority_is_refused_by_device_and_owner(
    start: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    url = start(authority.issue("127.0.0.1"))
    other = Authority(tmp_path / "other", "Other CA")
    assert "unable to get local issuer certificate" in refusal(device(url, tmp_path / "device", other))
    assert "certificate" in refusal(device(url, tmp_path / "device", None))
    with AdminClient(ServerAddress(url), "secret") as owner, pytest.raises(QuadloomError, match="CERTIFICATE_VERIFY"):
        owner.devices()


def test_a_certificate_of_another_host_is_refused(
    start: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    url = start(authority.issue("fleet.example", "127.0.0.2"))
    assert "127.0.0.1" in refusal(device(url, tmp_path / "device", authority))


def test_an_expired_certificate_is_refused(start: Callable[..., str], authority: Authority, tmp_path: Path) -> None:
    url = start(authority.issue("127.0.0.1", valid_for=-DAY))
    assert "expired" in refusal(device(url, tmp_path / "device", authority))


def test_a_server_with_tls_answers_no_plain_http(start: Callable[..., str], authority: Authority) -> None:
    url = start(authority.issue("127.0.0.1"))
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https://", "http://") + "/healthz")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_server_that_others_can_reach_needs_a_certificate_or_the_flag_that_says_so(
    run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path, host: str
) -> None:
    said = run_and_fail(family_folder, tmp_path / "state", "--port", "0", "--host", host)
    assert f"--host {host} lets other machines in" in said
    assert "--allow-unencrypted-http" in said


def test_the_flag_lets_a_server_listen_everywhere(start: Callable[..., str]) -> None:
    url = start(["--host", "0.0.0.0", "--allow-unencrypted-http"])
    assert httpx.get(url + "/healthz").json() == {"status": "ok"}


def test_a_certificate_without_its_key_is_refused(
    run_and_fail: Callable[..., str], authority: Authority, family_folder: Path, tmp_path: Path
) -> None:
    certificate = authority.issue("127.0.0.1")[:2]
    key = ec.generate_private_key(ec.SECP256R1())
    for name, encryption in (("other.key", NoEncryption()), ("locked.key", BestAvailableEncryption(b"password"))):
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    state = tmp_path / "state"
    assert "only one of them" in run_and_fail(family_folder, state, *certificate)
    for name in ("other.key", "locked.key", "missing.key"):
        said = run_and_fail(family_folder, state, *certificate, "--tls-key", str(tmp_path / name))
        assert name in said
        assert "cannot be used" in said
