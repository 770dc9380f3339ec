"""Who gets in: whoever has a valid token, and whoever is known by its key already."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_server.api.app import create_app
from quadloom_server.rounds import control
from quadloom_server.store.tables import Device, EnrolmentToken, UsedNonce
from quadloom_server.trust import tokens

CAPABILITIES = {"formats": ["onnx"], "memory_limit_bytes": 100_000_000, "threads": 1, "examples": 100}


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=1)


@pytest.fixture
def client(task: Any) -> Iterator[TestClient]:
    with TestClient(create_app(task.rounds)) as client:
        yield client


def enrol(client: TestClient, auth: Any, token: str | None = None, **changed: Any) -> Any:
    message = {"name": "phone", "capabilities": CAPABILITIES, "public_key": auth.public_key, "enrolment_token": token}
    return client.post("/v1/devices", json=message | changed, auth=auth)


def code(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return ErrorResponse.model_validate(answer.json()).code


def count(task: Any, table: type) -> int:
    with task.state.sessions() as session:
        return int(session.scalar(select(func.count()).select_from(table)))


@pytest.mark.parametrize("token", [None, "", "made-up", "' OR 1=1 --", "x" * 200])
def test_without_a_token_of_this_server_nobody_gets_in(task: Any, client: TestClient, token: str | None) -> None:
    task.token()
    assert code(enrol(client, task.auth("phone"), token), 403) == "invalid-token"
    assert count(task, Device) == 0


def test_a_revoked_token_lets_nobody_in_but_whoever_came_by_it_stays(task: Any, client: TestClient) -> None:
    early, token = task.auth("phone"), task.token()
    early.device_id = enrol(client, early, token).json()["device_id"]
    with task.rounds.turn() as turn:
        (issued,) = tokens.list_tokens(turn.session, now_s=turn.now_s)
        assert tokens.revoke(turn.session, issued.token_id, now_s=turn.now_s).state == "revoked"
    assert code(enrol(client, task.auth("late"), token, name="late"), 403) == "revoked-token"
    assert client.post(f"/v1/devices/{early.device_id}/check-in", json={}, auth=early).status_code == 200


def test_a_token_expires_at_its_time(task: Any, client: TestClient) -> None:
    token = task.token(expires_after_s=60)
    task.now_s += 59
    assert enrol(client, task.auth("phone"), token).status_code == 200
    task.now_s += 1
    assert code(enrol(client, task.auth("late"), token, name="late"), 403) == "expired-token"


def test_a_token_lets_in_as_many_devices_as_it_says(task: Any, client: TestClient) -> None:
    token = task.token(max_uses=2)
    for name in ("first", "second"):
        assert enrol(client, task.auth(name), token, name=name).status_code == 200
    assert code(enrol(client, task.auth("third"), token, name="third"), 403) == "used-up-token"
    assert count(task, Device) == 2


def test_an_enrolment_whose_answer_was_lost_is_repeated_without_using_the_token_twice(
    task: Any, client: TestClient
) -> None:
    phone, token = task.auth("phone"), task.token(max_uses=1)
    first, again = enrol(client, phone, token), enrol(client, phone, token)
    assert first.json()["device_id"] == again.json()["device_id"]
    assert count(task, Device) == 1


def test_an_enrolment_that_is_refused_uses_nothing_up(task: Any, client: TestClient) -> None:
    task.enrol("phone")
    token = task.token(max_uses=1)
    assert code(enrol(client, task.auth("other"), token), 409) == "name-taken"
    assert enrol(client, task.auth("other"), token, name="other").status_code == 200


def test_a_token_is_not_stored(task: Any) -> None:
    token = task.token()
    task.close()
    stored = b"".join(path.read_bytes() for path in task.state_folder.rglob("*") if path.is_file())
    assert token.encode() not in stored
    assert tokens.secret_sha256(token).encode() in stored


def test_a_known_key_needs_no_token_and_takes_its_new_name_along(task: Any, client: TestClient) -> None:
    (device_id,) = task.enrol("phone")
    answer = enrol(client, task.auth("phone"), name="renamed", capabilities=CAPABILITIES | {"examples": 7})
    assert answer.json()["device_id"] == device_id
    (row,) = task.rounds.task_status().devices
    assert row.name == "renamed"


def test_a_known_key_cannot_take_the_name_of_another_device(task: Any, client: TestClient) -> None:
    task.enrol("phone", "tablet")
    assert code(enrol(client, task.auth("phone"), name="tablet"), 409) == "name-taken"


def test_a_revoked_key_stays_out_with_any_token_and_its_name_is_free_again(task: Any, client: TestClient) -> None:
    (device_id,) = task.enrol("phone")
    with task.rounds.turn() as turn:
        control.revoke_device(turn, device_id)
    assert code(enrol(client, task.auth("phone"), task.token()), 403) == "revoked-device"
    successor = enrol(client, task.auth("another key"), task.token())
    assert successor.status_code == 200
    assert [each.state for each in task.rounds.task_status().devices] == ["revoked", "enrolled"]


def test_a_key_that_does_not_sign_cannot_be_enrolled(task: Any, client: TestClient) -> None:
    other = task.auth("other").public_key
    assert code(enrol(client, task.auth("phone"), task.token(), public_key=other), 401) == "bad-signature"
    assert count(task, Device) == 0


def test_an_enrolment_is_not_done_twice(task: Any, client: TestClient) -> None:
    (device_id,) = task.enrol("phone")
    phone = task.auth("phone")
    message = {"name": "phone", "capabilities": CAPABILITIES, "public_key": phone.public_key}
    request = client.build_request("POST", "/v1/devices", json=message)
    phone(request)
    assert client.send(request).json()["device_id"] == device_id
    assert code(client.send(request), 401) == "replayed-request"


def test_strangers_leave_no_trace_in_the_database(task: Any, client: TestClient) -> None:
    for number in range(5):
        enrol(client, task.auth(f"stranger {number}"), "made-up")
    assert [count(task, table) for table in (Device, UsedNonce, EnrolmentToken)] == [0, 0, 0]


@pytest.mark.parametrize("key", ["", "A" * 44, "!" * 44, "A" * 43 + "=", "A" * 1000, "AAAA\r\nX-Header: y"])
def test_what_is_no_key_is_refused(task: Any, client: TestClient, key: str) -> None:
    answer = enrol(client, task.auth("phone"), task.token(), public_key=key)
    assert answer.status_code in (401, 422)
    assert count(task, Device) == 0
