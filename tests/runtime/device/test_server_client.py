"""The client against a real HTTP server that makes trouble."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.connection import ServerAddress
from quadloom_runtime.contract.wire import Capabilities, FailureReport
from quadloom_runtime.device.answers import RefusedError
from quadloom_runtime.device.client import Link, OversizeBlobError, ServerClient, ServerUnreachableError
from quadloom_runtime.device.retry import Retry
from quadloom_runtime.errors import QuadloomError

CONTENT = np.random.default_rng(0).bytes(1_000_000)
CAPABILITIES = Capabilities(formats=("onnx",), memory_limit_bytes=1, threads=1, examples=1)
KEY = Ed25519PrivateKey.generate()
AT_ONCE = Retry(patience_s=60, sleep=lambda _seconds: None)


@pytest.fixture
def client(server: Any) -> Iterator[ServerClient]:
    client = ServerClient(ServerAddress(server.url), KEY, retry=AT_ONCE)
    yield client
    client.close()


def ranges(server: Any) -> list[str | None]:
    return [asked for _, path, asked in server.requests if path.startswith("/v1/blobs/")]


def test_a_dropped_download_goes_on_where_it_stopped(server: Any, client: ServerClient, tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    server.faults["/v1/blobs/"] = ["drop", "unavailable", "drop"]
    client.download(sha256, cache, largest_bytes=1 << 30)
    assert cache.path(sha256).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=500000-", "bytes=500000-", "bytes=750000-"]
    assert client.traffic.down_bytes == len(CONTENT), "nothing may cross the link twice"


def test_a_download_goes_on_in_another_process_run(server: Any, tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    partial = cache.partial_path(sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:900_000])
    fresh = ServerClient(ServerAddress(server.url), KEY, retry=AT_ONCE)
    fresh.download(sha256, cache, largest_bytes=1 << 30)
    fresh.close()
    assert cache.path(sha256).read_bytes() == CONTENT
    assert fresh.traffic.down_bytes == 100_000


def test_a_server_that_ignores_ranges_sends_all_again(server: Any, client: ServerClient, tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    server.faults["/v1/blobs/"] = ["drop", "ignore-range"]
    client.download(sha256, cache, largest_bytes=1 << 30)
    assert cache.path(sha256).read_bytes() == CONTENT


def test_a_download_that_was_complete_but_not_yet_checked_is_not_fetched_again(
    server: Any, client: ServerClient, tmp_path: Path
) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    cache.partial_path(sha256).parent.mkdir(parents=True)
    cache.partial_path(sha256).write_bytes(CONTENT)
    client.download(sha256, cache, largest_bytes=1 << 30)
    assert cache.path(sha256).read_bytes() == CONTENT
    assert client.traffic.down_bytes == 0


def test_altered_bytes_are_fetched_anew_once(server: Any, client: ServerClient, tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    server.faults["/v1/blobs/"] = ["alter"]
    client.download(sha256, cache, largest_bytes=1 << 30)
    assert cache.path(sha256).read_bytes() == CONTENT
    assert ranges(server) == [None, None], "altered bytes must not be continued"


def test_bytes_that_are_altered_each_time_are_an_error_and_not_kept(
    server: Any, client: ServerClient, tmp_path: Path
) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    server.faults["/v1/blobs/"] = ["alter"] * 9
    with pytest.raises(QuadloomError, match=sha256):
        client.download(sha256, cache, largest_bytes=1 << 30)
    assert not cache.path(sha256).exists()
    assert not cache.partial_path(sha256).exists()


def test_a_refusal_is_not_repeated_and_carries_the_servers_words(
    server: Any, client: ServerClient, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="the test says unknown-blob") as caught:
        client.download("ab" * 32, BlobCache(tmp_path), largest_bytes=1 << 30)
    assert (caught.value.status, caught.value.code) == (404, "unknown-blob")
    assert len(server.requests) == 1


def test_requests_survive_a_server_that_is_unavailable_for_a_while(server: Any, client: ServerClient) -> None:
    server.faults["/v1/devices"] = ["unavailable"] * 3
    assert client.enrol("d1", CAPABILITIES).device_id == "device-1"
    assert len(server.requests) == 4


def test_a_device_that_asked_too_often_waits_as_long_as_the_server_says(server: Any) -> None:
    slept: list[float] = []
    client = ServerClient(ServerAddress(server.url), KEY, retry=Retry(patience_s=60, sleep=slept.append))
    server.faults["/v1/devices"] = ["too-many", "too-slow"]
    assert client.enrol("d1", CAPABILITIES).device_id == "device-1"
    client.close()
    assert 3 <= slept[0] <= 3.5
    assert slept[1] < 3


def test_an_update_arrives_byte_for_byte_and_a_failure_as_it_was(server: Any, client: ServerClient) -> None:
    assert client.report_update("a-1", CONTENT).status == "accepted"
    failure = FailureReport(kind="out-of-memory", message="größer")
    assert client.report_failure("a-2", failure).status == "accepted"
    assert server.updates == [("a-1", CONTENT)]
    assert server.failures == [("a-2", failure)]
    assert client.traffic.up_bytes == len(CONTENT) + len(failure.model_dump_json().encode())


def test_an_absent_server_is_an_error_that_names_address_and_cause() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = ServerClient(ServerAddress(f"http://127.0.0.1:{port}"), KEY, retry=Retry(patience_s=0.2))
    with pytest.raises(ServerUnreachableError, match=f"127.0.0.1:{port}.*refused"):
        client.enrol("d1", CAPABILITIES)


@pytest.mark.parametrize("address", ["127.0.0.1:8765", "ftp://host", "http://", "nonsense", "https://host:port"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(QuadloomError) as caught:
        ServerAddress(address)
    assert repr(address) in caught.value.cause


def test_an_answer_that_is_not_the_message_is_an_error(server: Any, client: ServerClient) -> None:
    server._answer = lambda _path, _body: "<html>a proxy's login page</html>"
    with pytest.raises(QuadloomError, match="EnrolResponse"):
        client.enrol("d1", CAPABILITIES)


def test_the_link_takes_as_long_as_its_speed_asks_for(server: Any, tmp_path: Path) -> None:
    slept: list[float] = []
    client = ServerClient(
        ServerAddress(server.url), KEY, link=Link(500_000, 250_000), retry=AT_ONCE, sleep=slept.append
    )
    client.download(server.offer(CONTENT), BlobCache(tmp_path), largest_bytes=1 << 30)
    assert sum(slept) == pytest.approx(2.0)
    assert len(slept) > 5, "the pauses lie between the chunks, so that the device does not seem dead"
    slept.clear()
    client.report_update("a-1", CONTENT)
    client.close()
    assert sum(slept) == pytest.approx(4.0)


@pytest.mark.parametrize("here_bytes", [0, 400_000, 600_000])
def test_a_server_that_sends_more_than_a_blob_has_is_cut_off(
    server: Any, client: ServerClient, tmp_path: Path, here_bytes: int
) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    cache.partial_path(sha256).parent.mkdir(parents=True)
    cache.partial_path(sha256).write_bytes(CONTENT[:here_bytes])
    with pytest.raises(OversizeBlobError, match="more than its 500000 bytes"):
        client.download(sha256, cache, largest_bytes=500_000)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert client.traffic.down_bytes <= 500_000


def test_a_blob_of_just_its_size_is_taken_in(server: Any, client: ServerClient, tmp_path: Path) -> None:
    cache, sha256 = BlobCache(tmp_path), server.offer(CONTENT)
    server.faults["/v1/blobs/"] = ["drop"]
    client.download(sha256, cache, largest_bytes=len(CONTENT))
    assert cache.path(sha256).read_bytes() == CONTENT
