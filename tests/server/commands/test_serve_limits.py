"""A real server against many uploads at once, and against clients that take their time."""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_runtime.family_folder import load_manifest

UPLOADS = 200
UPDATE_BYTES = 4_000_000
MOST_GROWTH_BYTES = 100_000_000
"""Buffers of 200 connections, two updates being checked, and the fold; the updates together are 800 MB."""
BIG_TABLE = (
    ParameterSpec(name="layer.lora_A.weight", shape=(2, UPDATE_BYTES // 8), layer=1, rank=2),
    ParameterSpec(name="layer.lora_B.weight", shape=(2, 2), layer=1, rank=2),
    ParameterSpec(name="head.bias", shape=(2,), layer="head", rank=None),
)
Serve = Callable[..., Any]


def anonymous_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


@contextmanager
def watching_memory(pid: int) -> Iterator[list[int]]:
    """A list that holds the anonymous memory of the process, again and again."""
    seen = [anonymous_bytes(pid)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            seen.append(anonymous_bytes(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def head_of(method: str, path: str, fields: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: server", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture
def big_family(write_family: Callable[..., Path], tmp_path: Path) -> Path:
    return write_family(tmp_path / "big", parameters=BIG_TABLE)


def test_memory_does_not_grow_with_the_updates_that_come_at_once(
    serve: Serve, big_family: Path, tmp_path: Path, update_content: Callable[..., bytes]
) -> None:
    server = serve(
        big_family,
        tmp_path / "state",
        *("--rounds", "1", "--min-devices", str(UPLOADS), "--max-unsigned-requests-per-minute", "1000"),
    )
    devices = [server.enrol(f"device-{number}") for number in range(UPLOADS)]
    paths = [f"/v1/assignments/{server.assignment(device).assignment_id}/update" for device in devices]
    content = update_content({row.name: np.full(row.shape, 0.5, np.float32) for row in BIG_TABLE})
    part = len(content) - 1000
    all_under_way = asyncio.Barrier(UPLOADS + 1)

    async def upload(device: Any, path: str) -> bytes:
        reader, writer = await asyncio.open_connection(server.client.base_url.host, server.client.base_url.port)
        fields = device.sign("PUT", path, content) | {"content-length": str(len(content)), "connection": "close"}
        writer.write(head_of("PUT", path, fields))
        for place in range(0, part, 65536):
            writer.write(content[place : min(part, place + 65536)])
            await writer.drain()
        await all_under_way.wait()
        writer.write(content[part:])
        answer = await reader.read()
        writer.close()
        return answer

    async def upload_all() -> list[bytes]:
        uploads = [asyncio.create_task(upload(*each)) for each in zip(devices, paths, strict=True)]
        await all_under_way.wait()
        return await asyncio.gather(*uploads)

    with watching_memory(server.process.pid) as seen:
        answers = asyncio.run(upload_all())
    assert [status_of(answer) for answer in answers] == [200] * UPLOADS
    assert all(b'"status":"accepted"' in answer for answer in answers)
    assert max(seen) - seen[0] < MOST_GROWTH_BYTES
    assert list((tmp_path / "state" / "uploads").iterdir()) == []


@pytest.fixture
def impatient(serve: Serve, family_folder: Path, tmp_path: Path) -> Any:
    """A server that waits half a second for anything."""
    return serve(family_folder, tmp_path / "state", "--body-stall-s", "0.5", "--header-timeout-s", "0.5")


@contextmanager
def connected(server: Any) -> Iterator[socket.socket]:
    address = (server.client.base_url.host, server.client.base_url.port)
    with socket.create_connection(address, timeout=30) as connection:
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def one_answer(connection: socket.socket) -> bytes:
    """The next answer, whole."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += connection.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return found


def trickle(connection: socket.socket, piece: bytes) -> None:
    """Send the piece again and again, with pauses, until the server answers or closes the connection."""
    with suppress(OSError):
        while not select.select([connection], [], [], 0.1)[0]:
            connection.send(piece)


def update_head(server: Any, *, length: int) -> bytes:
    device = server.enrol("phone")
    path = f"/v1/assignments/{server.assignment(device).assignment_id}/update"
    return head_of("PUT", path, device.sign("PUT", path, b"") | {"content-length": str(length)})


def refusal(answer: bytes, status: int) -> ErrorResponse:
    assert status_of(answer) == status, answer
    return ErrorResponse.model_validate_json(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("trickles", [False, True])
def test_a_body_that_stalls_or_trickles_is_cut_off(impatient: Any, trickles: bool) -> None:
    with connected(impatient) as connection:
        connection.sendall(update_head(impatient, length=1000) + b"x")
        if trickles:
            trickle(connection, b"x")
        assert refusal(answer_of(connection), 408).code == "body-too-slow"
    assert impatient.client.get("/healthz").status_code == 200


def test_a_json_body_that_stalls_is_cut_off_before_anybody_is_authenticated(impatient: Any) -> None:
    with connected(impatient) as connection:
        connection.sendall(head_of("POST", "/v1/devices", {"content-length": "50"}) + b"{")
        assert refusal(answer_of(connection), 408).code == "body-too-slow"


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: server\r\nx-slow: "])
def test_a_connection_without_a_whole_request_is_closed(impatient: Any, begun: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(begun)
        if begun:
            trickle(connection, b"a")
        assert answer_of(connection) == b""
    assert impatient.client.get("/healthz").status_code == 200


def test_a_body_that_goes_on_after_its_refusal_is_cut_off(impatient: Any) -> None:
    device = impatient.enrol("phone")
    path = "/v1/assignments/none/update"
    head = head_of("PUT", path, device.sign("PUT", path, b"") | {"content-length": "10000"})
    with connected(impatient) as connection:
        connection.sendall(head)
        assert status_of(one_answer(connection)) == 404
        trickle(connection, b"x")
        assert answer_of(connection) == b""


def test_a_client_that_sends_too_much_reads_why(impatient: Any) -> None:
    with connected(impatient) as connection:
        connection.sendall(update_head(impatient, length=100_000) + bytes(100_000))
        assert refusal(answer_of(connection), 413).code == "body-too-large"


@pytest.fixture
def big_blob(write_family: Callable[..., Path], tmp_path: Path) -> tuple[Path, str]:
    """A family whose weights do not fit the buffers of a socket, and their hash."""
    folder = write_family(tmp_path / "large", weights=bytes(64 << 20))
    (weights,) = [each.weights for each in load_manifest(folder).formats]
    return folder, weights.sha256


def test_a_client_that_does_not_take_its_answer_is_dropped(
    serve: Serve, big_blob: tuple[Path, str], tmp_path: Path
) -> None:
    folder, sha256 = big_blob
    server = serve(folder, tmp_path / "state", "--read-timeout-s", "0.5")
    device, path = server.enrol("phone"), f"/v1/blobs/{sha256}"
    with connected(server) as connection:
        connection.sendall(head_of("GET", path, device.sign("GET", path, b"")))
        time.sleep(2)  # the device reads nothing
        with suppress(ConnectionResetError):
            taken = len(answer_of(connection))
            assert taken < 64 << 20
    assert server.client.get("/healthz").status_code == 200


def test_connections_beyond_the_bound_are_turned_away_and_the_others_served(
    serve: Serve, family_folder: Path, tmp_path: Path
) -> None:
    server = serve(family_folder, tmp_path / "state", "--max-connections", "8")
    server.client.close()
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(server)) for _ in range(12)]
        statuses = []
        for connection in connections:
            connection.sendall(head_of("GET", "/healthz", {}))
            statuses.append(status_of(one_answer(connection)))
        assert set(statuses) == {200, 503}
    time.sleep(0.2)
    with connected(server) as connection:
        connection.sendall(head_of("GET", "/healthz", {}))
        assert status_of(one_answer(connection)) == 200


def test_a_pause_between_two_requests_is_no_slow_request(impatient: Any) -> None:
    with connected(impatient) as connection:
        for _ in range(2):
            connection.sendall(head_of("GET", "/healthz", {}))
            assert status_of(one_answer(connection)) == 200
            time.sleep(0.7)
