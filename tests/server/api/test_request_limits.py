"""Bodies too large or too deep, and clients that ask too often."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_server.api.app import create_app
from quadloom_server.limits import Limits
from quadloom_server.store.tables import UsedNonce

CAPABILITIES = {"formats": ["onnx"], "memory_limit_bytes": 100_000_000, "threads": 1, "examples": 10}
MakeClient = Callable[..., TestClient]


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=1, max_devices=2)


@pytest.fixture
def make_client(task: Any) -> Iterator[MakeClient]:
    with ExitStack() as running:

        def make(*, address: str = "198.51.100.7", **limits: float) -> TestClient:
            app = create_app(task.rounds, limits=Limits(**limits))  # type: ignore[arg-type]
            return running.enter_context(TestClient(app, raise_server_exceptions=False, client=(address, 5000)))

        yield make


def refusal(answer: Any, status: int) -> ErrorResponse:
    assert answer.status_code == status, answer.text
    return ErrorResponse.model_validate(answer.json())


def in_chunks(content: bytes, size_bytes: int = 1000) -> Iterator[bytes]:
    yield from (content[place : place + size_bytes] for place in range(0, len(content), size_bytes))


def enrolled(task: Any, name: str) -> Any:
    (device_id,) = task.enrol(name)
    return task.auth(name, device_id)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_json_body_above_its_own_small_limit_is_too_large(task: Any, make_client: MakeClient, chunked: bool) -> None:
    device = enrolled(task, "phone")
    body = b'{"schema_version": 1' + b" " * 70_000 + b"}"
    headers = {"content-type": "application/json"}
    url = f"/v1/devices/{device.device_id}/check-in"
    headers |= device.sign("POST", url, body)
    answer = make_client().post(url, content=in_chunks(body) if chunked else body, headers=headers)
    assert refusal(answer, 413).code == "body-too-large"


def test_an_update_may_be_larger_than_a_json_body(task: Any, make_client: MakeClient) -> None:
    device = enrolled(task, "phone")
    mine = task.assignment(device.device_id)
    content = task.content(mine, 0.5)
    client = make_client(json_bytes=100)
    assert len(content) > 100
    answer = client.put(f"/v1/assignments/{mine.assignment_id}/update", content=content, auth=device)
    assert answer.json()["status"] == "accepted"


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a":' * 10_000, b'{"a": "[[[["' + b', "b": [[' * 3000])
def test_deep_json_is_refused_before_it_is_parsed(task: Any, make_client: MakeClient, body: bytes) -> None:
    device = enrolled(task, "phone")
    url = f"/v1/devices/{device.device_id}/check-in"
    answer = make_client().post(
        url, content=body, headers={"content-type": "application/json"} | device.sign("POST", url, body)
    )
    assert refusal(answer, 400).code == "json-too-deep"


def test_a_device_that_asks_too_often_is_told_when_to_come_back(task: Any, make_client: MakeClient) -> None:
    greedy, modest = enrolled(task, "greedy"), enrolled(task, "modest")
    client = make_client(requests_per_minute=3)

    def check_in(device: Any) -> Any:
        return client.post(f"/v1/devices/{device.device_id}/check-in", json={}, auth=device)

    assert [check_in(greedy).status_code for _ in range(3)] == [200] * 3
    refused = check_in(greedy)
    assert refusal(refused, 429).code == "too-many-requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert check_in(modest).status_code == 200


def test_requests_without_a_signature_are_counted_by_address_and_hold_no_device_up(
    task: Any, make_client: MakeClient
) -> None:
    device = enrolled(task, "phone")
    client = make_client(unsigned_requests_per_minute=3)
    assert [client.get("/v1/task").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert refusal(client.get("/"), 429).code == "too-many-requests"
    answer = client.post(f"/v1/devices/{device.device_id}/check-in", json={}, auth=device)
    assert answer.status_code == 200


def test_forged_signatures_and_enrolments_count_as_unsigned(task: Any, make_client: MakeClient) -> None:
    device = enrolled(task, "phone")
    client = make_client(unsigned_requests_per_minute=4)
    stranger = task.auth("stranger", device.device_id)
    for _ in range(2):
        answer = client.post(f"/v1/devices/{device.device_id}/check-in", json={}, auth=stranger)
        assert refusal(answer, 401).code == "bad-signature"
    newcomer = task.auth("newcomer")
    message = {"name": "newcomer", "capabilities": CAPABILITIES, "public_key": newcomer.public_key}
    codes = [client.post("/v1/devices", json=message, auth=newcomer).json()["code"] for _ in range(3)]
    assert codes == ["invalid-token", "invalid-token", "too-many-requests"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/task", "/v1/admin/devices", "/device/", "/nowhere"])
def test_a_made_up_signature_buys_nothing_where_none_is_verified(make_client: MakeClient, path: str) -> None:
    client = make_client(unsigned_requests_per_minute=2)
    codes = [client.get(path, headers={"signature": "made up"}).status_code for _ in range(3)]
    assert 429 not in codes[:2]
    assert codes[2] == 429


def test_requests_beyond_a_devices_share_are_not_written_down(task: Any, make_client: MakeClient) -> None:
    device = enrolled(task, "greedy")
    client = make_client(requests_per_minute=2)
    url = f"/v1/devices/{device.device_id}/check-in"
    assert [client.post(url, json={}, auth=device).status_code for _ in range(5)] == [200, 200, 429, 429, 429]
    with task.state.sessions() as session:
        noted = session.scalars(select(UsedNonce).where(UsedNonce.key_id == device.device_id)).all()
    assert len(noted) == 2


def test_replays_do_not_use_up_the_share_of_their_device(task: Any, make_client: MakeClient) -> None:
    device = enrolled(task, "phone")
    client = make_client(requests_per_minute=2)
    url = f"/v1/devices/{device.device_id}/check-in"
    recorded = {"content-type": "application/json"} | device.sign("POST", url, b"{}")
    assert client.post(url, content=b"{}", headers=recorded).status_code == 200
    for _ in range(4):
        assert refusal(client.post(url, content=b"{}", headers=recorded), 401).code == "replayed-request"
    assert client.post(url, json={}, auth=device).status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("198.51.100.7", "198.51.100.8", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
    ],
)
def test_an_ipv6_subscriber_has_one_allowance_for_all_its_addresses(
    make_client: MakeClient, first: str, second: str, shared: bool
) -> None:
    client = make_client(address=first, unsigned_requests_per_minute=1)
    assert client.get("/healthz").status_code == 200
    other = TestClient(client.app, client=(second, 5000))
    assert (other.get("/healthz").status_code == 429) == shared


def test_no_more_devices_enrol_than_the_server_takes_and_a_revoked_one_makes_room(
    task: Any, make_client: MakeClient
) -> None:
    enrolled(task, "first")
    second = enrolled(task, "second")
    client = make_client()

    def enrol_third() -> Any:
        third = task.auth("third")
        message = {"name": "third", "capabilities": CAPABILITIES, "public_key": third.public_key}
        return client.post("/v1/devices", json=message | {"enrolment_token": task.token()}, auth=third)

    assert refusal(enrol_third(), 403).code == "too-many-devices"
    admin = {"authorization": f"Bearer {(task.state_folder / 'admin-token').read_text().strip()}"}
    assert client.post(f"/v1/admin/devices/{second.device_id}/revoke", headers=admin).status_code == 200
    assert enrol_third().status_code == 200
