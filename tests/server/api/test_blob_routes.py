"""Blobs over HTTP: whole, in parts, not at all when the client has them, and only what may be served."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_server.api.app import create_app
from quadloom_server.api.byte_range import requested_range
from quadloom_server.errors import RefusedRequestError


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=2)


@pytest.fixture
def client(task: Any) -> Iterator[TestClient]:
    (device,) = task.enrol("reader")
    with TestClient(create_app(task.rounds)) as client:
        client.auth = task.auth("reader", device)
        yield client


@pytest.fixture
def weights(task: Any) -> tuple[str, bytes]:
    blob = task.family.manifest.formats[0].weights
    return f"/v1/blobs/{blob.sha256}", (task.family.folder / blob.path).read_bytes()


def test_every_file_of_the_family_and_the_manifest_are_served_by_hash(task: Any, client: TestClient) -> None:
    for blob in task.family.manifest.blobs():
        answer = client.get(f"/v1/blobs/{blob.sha256}")
        assert answer.status_code == 200
        assert answer.content == (task.family.folder / blob.path).read_bytes()
    manifest = client.get(f"/v1/blobs/{task.family.manifest_sha256}")
    assert manifest.content == (task.family.folder / "family.json").read_bytes()


def test_a_closed_rounds_adapter_is_served_and_an_update_is_not(task: Any, client: TestClient) -> None:
    (device,) = task.enrol("device")
    mine = task.assignment(device)
    content = task.content(mine, 1.0)
    task.report(mine.assignment_id, content)
    task.run_background()
    adapter = task.rounds.task_status().rounds[0].adapter
    assert client.get(f"/v1/blobs/{adapter.sha256}").content == task.state.adapters.tensors_path(1).read_bytes()
    assert client.get(f"/v1/blobs/{task.state.blobs.put(content)}").status_code == 404


def test_a_blob_says_that_it_never_changes(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, content = weights
    answer = client.get(url)
    assert answer.headers["etag"] == f'"{url.rsplit("/")[-1]}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(len(content))


def test_head_gives_the_headers_without_the_content(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, content = weights
    answer = client.head(url)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["etag"] == client.get(url).headers["etag"]


def test_a_client_that_has_the_blob_gets_304(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, _ = weights
    etag = client.head(url).headers["etag"]
    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = client.get(url, headers={"If-None-Match": header})
        assert answer.status_code == 304
        assert answer.content == b""
    assert client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_an_interrupted_download_resumes_where_it_stopped(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, content = weights
    answer = client.get(url, headers={"Range": "bytes=123456-"})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes 123456-{len(content) - 1}/{len(content)}"
    assert answer.headers["content-length"] == str(len(content) - 123456)
    assert content[:123456] + answer.content == content


@pytest.mark.parametrize(("header", "part"), [("bytes=0-0", slice(0, 1)), ("bytes=-5", slice(-5, None))])
def test_a_part_is_served_exactly(client: TestClient, weights: tuple[str, bytes], header: str, part: slice) -> None:
    url, content = weights
    answer = client.get(url, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == content[part]


def test_a_part_of_something_else_is_not_mixed_in(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, content = weights
    answer = client.get(url, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert answer.status_code == 200
    assert answer.content == content


def test_a_range_behind_the_end_is_refused_with_the_size(client: TestClient, weights: tuple[str, bytes]) -> None:
    url, content = weights
    answer = client.get(url, headers={"Range": f"bytes={len(content)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(content)}"
    assert ErrorResponse.model_validate(answer.json()).code == "range-not-satisfiable"


@pytest.mark.parametrize("name", ["0" * 64, "x", "..%2F..%2Fetc%2Fpasswd"])
def test_what_is_no_blob_is_refused(client: TestClient, name: str) -> None:
    answer = client.get(f"/v1/blobs/{name}")
    assert answer.status_code == 404
    assert ErrorResponse.model_validate(answer.json()).remedy


def test_a_file_that_vanished_under_the_server_is_refused_not_a_crash(task: Any, client: TestClient) -> None:
    blob = task.family.manifest.members[0].graph
    (task.family.folder / blob.path).unlink()
    assert client.get(f"/v1/blobs/{blob.sha256}").status_code == 404


@given(st.integers(0, 50), st.none() | st.integers(0, 60), st.none() | st.integers(0, 60))
def test_any_single_range_selects_what_the_standard_says(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    unreadable = last < first if first is not None and last is not None else first is None and last is None
    outside = first >= size if first is not None else min(size, last or 0) == 0
    if unreadable:
        assert requested_range(header, size) is None
        return
    if outside:
        with pytest.raises(RefusedRequestError, match=f"{size} bytes"):
            requested_range(header, size)
        return
    found = requested_range(header, size)
    assert found is not None
    expected = content[-(last or 0) :] if first is None else content[first : None if last is None else last + 1]
    assert content[found.start : found.stop] == expected


@pytest.mark.parametrize("header", [None, "", "items=0-1", "bytes=a-b", "bytes=0-1,3-4", "bytes=-", "bytes=\u0663-"])
def test_a_range_that_cannot_be_read_asks_for_everything(header: str | None) -> None:
    assert requested_range(header, 10) is None
