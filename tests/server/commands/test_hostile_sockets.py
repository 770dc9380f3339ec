"""Bytes that no honest client sends, on real sockets to a real server, which must go on as if nothing had been."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.server.commands.test_serve_limits import answer_of, connected, head_of, status_of

WRONG_LENGTHS = {
    "two lengths": {"content-length": "2", "Content-Length": "3"},
    "a length that is no number": {"content-length": "2x"},
    "a negative length": {"content-length": "-2"},
    "a length and chunks": {"content-length": "2", "transfer-encoding": "chunked"},
    "unheard-of coding": {"transfer-encoding": "gzip, chunked, identity"},
}


@pytest.fixture
def server(serve: Callable[..., Any], family_folder: Path, tmp_path: Path) -> Any:
    return serve(family_folder, tmp_path / "state", "--body-stall-s", "2")


def exchange(server: Any, sent: bytes) -> bytes:
    """Send the bytes, and nothing more; all that the server answers."""
    with connected(server) as connection:
        with suppress(OSError):  # a server may hang up before it has read all of it
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        return answer_of(connection)


def statuses(answer: bytes) -> list[int]:
    return [status_of(b"HTTP/1.1" + part) for part in answer.split(b"HTTP/1.1")[1:]]


def test_requests_whose_length_is_in_doubt_reach_no_route(server: Any) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: server\r\n\r\n"
    for name, fields in WRONG_LENGTHS.items():
        answer = exchange(server, head_of("POST", "/v1/devices", fields) + b"{}" + smuggled)
        assert statuses(answer) == [400], (name, answer)
        assert b'"ok"' not in answer, name
    assert server.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("missing_bytes", [1, 500])
def test_an_update_that_is_shorter_than_its_stated_length_does_not_count(
    server: Any, missing_bytes: int, tmp_path: Path
) -> None:
    device = server.enrol("phone")
    mine = server.assignment(device)
    path = f"/v1/assignments/{mine.assignment_id}/update"
    content = bytes(1000)
    head = head_of("PUT", path, device.sign("PUT", path, content) | {"content-length": "1000"})
    exchange(server, head + content[:-missing_bytes])
    assert server.assignment(device).assignment_id == mine.assignment_id, "its assignment is open as before"
    assert server.client.get("/v1/task").json()["rounds"][0]["accepted"] == 0
    assert list((tmp_path / "state/uploads").iterdir()) == []


def test_bytes_that_are_no_http_are_refused_and_end_nothing(server: Any) -> None:
    device = server.enrol("phone")
    hung_up_on = (
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET /v1/task HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    )
    for sent in (
        *hung_up_on,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # a TLS greeting
        b"\x00" * 1000,
        b"GET " + b"/a" * 50_000 + b" HTTP/1.1\r\nhost: server\r\n\r\n",
        b"GET /v1/task HTTP/1.1\r\nhost: server\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
        b"GET /v1/task\r\nSet-Cookie: a=b HTTP/1.1\r\nhost: server\r\n\r\n",
        b"GET /v1/task HTTP/1.1\r\nhost: server\r\nx: a\rSet-Cookie: b\r\n\r\n",
    ):
        answer = exchange(server, sent)
        assert b"Set-Cookie" not in answer
        # What does not even look like a version of HTTP that it speaks, the server hangs up on without a word.
        assert statuses(answer) == ([] if sent in hung_up_on else [400]), (sent[:40], answer)
    assert server.check_in(device).assignment is not None


def test_what_a_device_says_cannot_write_lines_or_colours_into_the_servers_output(server: Any) -> None:
    device = server.enrol("phone")
    mine = server.assignment(device)
    failure = {"kind": "other", "message": "\x1b[2J\x1b]0;title\x07\nround 1 closed: accuracy 1.0\r\u202e"}
    url = f"/v1/assignments/{mine.assignment_id}/failure"
    assert server.client.post(url, json=failure, auth=device).json()["status"] == "accepted"
    line = server.read_until("phone failed")
    assert line.isprintable()
    assert "round 1 closed: accuracy 1.0" in line, "in the line of the device, not in one of its own"


def test_a_proxy_on_this_machine_says_whose_request_it_is(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path
) -> None:
    """As docs/security.md has proxies do: otherwise all clients behind one would share one allowance."""
    server = serve(family_folder, tmp_path / "state", "--max-unsigned-requests-per-minute", "2")

    def ask(address: str) -> int:
        return int(server.client.get("/healthz", headers={"x-forwarded-for": address}).status_code)

    assert [ask("198.51.100.7") for _ in range(3)] == [200, 200, 429]
    assert ask("198.51.100.8") == 200
