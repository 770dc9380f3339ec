"""Which ways to a server a client takes: none on which others could read along, unless that is asked for by name."""

import socket
from pathlib import Path

import pytest

from quadloom_runtime.administration import AdminClient, read_secret
from quadloom_runtime.cli import main
from quadloom_runtime.connection import ServerAddress, is_loopback
from quadloom_runtime.errors import QuadloomError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost"])
def test_plain_http_stays_on_this_machine(host: str) -> None:
    assert ServerAddress(f"http://{host}:8765").url == f"http://{host}:8765"


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "fleet.example", "localhost.example", "127.0.0.1.example", "0.0.0.0", "[2001:db8::1]", "0x7f.1"],
)
def test_plain_http_to_another_machine_is_refused_unless_it_is_allowed_by_name(host: str) -> None:
    with pytest.raises(QuadloomError, match="unencrypted") as caught:
        ServerAddress(f"http://{host}:8765")
    assert "--allow-unencrypted-http" in caught.value.remedy
    assert ServerAddress(f"https://{host}:8765").tls_ca is None
    assert ServerAddress(f"http://{host}:8765", allow_unencrypted_http=True).url == f"http://{host}:8765"


def test_a_device_does_not_start_with_an_address_that_others_could_read_along(
    data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the command's handlers are not this process's
    words = ["--server", "http://192.0.2.1:8765", "--data", str(data_file), "--cache", str(tmp_path / "cache")]
    assert main(["device", *words]) == 1
    assert "'http://192.0.2.1:8765' is unencrypted and leads to another machine" in capsys.readouterr().err


def test_a_user_part_does_not_make_a_host_look_local() -> None:
    with pytest.raises(QuadloomError, match="unencrypted"):
        ServerAddress("http://127.0.0.1@fleet.example:8765")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "example"])
def test_what_listens_everywhere_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_file_without_certificates_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(QuadloomError, match=name):
            ServerAddress("https://fleet.example", tls_ca=tmp_path / name).connect(timeout_s=1)


def test_a_proxy_of_the_environment_never_sees_what_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        address = ServerAddress(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with AdminClient(address, "secret") as client, pytest.raises(QuadloomError, match="refused"):
            client.tokens()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\r\nb"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, newline="")
    with pytest.raises(QuadloomError, match="holds no admin token"):
        read_secret(tmp_path / "token", what="admin token")
