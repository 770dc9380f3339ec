"""What attackers put into otherwise ordinary requests: each is refused or taken as the mere text that it is."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from quadloom_runtime.contract.wire import ErrorResponse, ReportResponse
from quadloom_server.api.app import create_app

CAPABILITIES = {"formats": ["onnx"], "memory_limit_bytes": 100_000_000, "threads": 1, "examples": 100}
SQL = ["' OR '1'='1", "x'; DROP TABLE device; --", '" OR ""="', "%' UNION SELECT 1 --", "\\'; --"]


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=1)


@pytest.fixture
def phone(task: Any) -> Any:
    (device_id,) = task.enrol("phone")
    return task.auth("phone", device_id)


@pytest.fixture
def client(task: Any, phone: Any) -> Iterator[TestClient]:
    with TestClient(create_app(task.rounds), raise_server_exceptions=False) as client:
        client.auth = phone
        yield client


@pytest.fixture
def admin(task: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {(task.state_folder / 'admin-token').read_text().strip()}"}


def code(answer: Any) -> str:
    assert 400 <= answer.status_code < 500, answer.text
    return ErrorResponse.model_validate(answer.json()).code


def enrol(client: TestClient, task: Any, **changed: Any) -> Any:
    """Another device's enrolment, with these fields changed."""
    tablet = task.auth("tablet")
    message = {"name": "tablet", "capabilities": CAPABILITIES, "public_key": tablet.public_key}
    content = json.dumps(message | {"enrolment_token": task.token()} | changed)
    return client.post("/v1/devices", content=content, headers={"content-type": "application/json"}, auth=tablet)


@pytest.mark.parametrize("text", SQL)
def test_sql_in_an_id_is_an_id_that_nobody_has(task: Any, client: TestClient, admin: dict[str, str], text: str) -> None:
    before = task.rounds.task_status()
    assert code(client.get(f"/v1/blobs/{text}")) == "unknown-blob"
    assert code(client.put(f"/v1/assignments/{text}/update", content=b"")) == "unknown-assignment"
    failure = {"kind": "other", "message": ""}
    assert code(client.post(f"/v1/assignments/{text}/failure", json=failure)) == "unknown-assignment"
    assert code(client.post(f"/v1/devices/{text}/check-in", json={})) == "not-your-device"
    client.auth = None
    assert code(client.post(f"/v1/admin/tokens/{text}/revoke", headers=admin)) == "unknown-token"
    assert code(client.post(f"/v1/admin/devices/{text}/revoke", headers=admin)) == "no-such-device"
    assert task.rounds.task_status() == before


@pytest.mark.parametrize("text", SQL)
def test_sql_in_a_message_is_refused_or_kept_as_text(task: Any, client: TestClient, phone: Any, text: str) -> None:
    assert code(enrol(client, task, name=text)) == "invalid-request"
    assert code(enrol(client, task, enrolment_token=text)) == "invalid-token"
    assert enrol(client, task, capabilities=CAPABILITIES | {"profile": text}).status_code == 200
    assert {each.name: each.profile for each in task.rounds.task_status().devices} == {"phone": "", "tablet": text}
    mine = task.assignment(phone.device_id)
    failure = {"kind": "other", "message": text}
    assert client.post(f"/v1/assignments/{mine.assignment_id}/failure", json=failure).json()["status"] == "accepted"
    assert text in task.events[-1]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "../phone",
        "a/b",
        "-rf",
        "a" * 65,
        "phone\r\nX-Injected: yes",
        "a\x00b",
        "\u202ephone",
        "<script>",
        ".x",
    ],
)
def test_a_name_that_could_pass_for_something_else_is_refused(task: Any, client: TestClient, name: str) -> None:
    answer = enrol(client, task, name=name)
    assert code(answer) == "invalid-request"
    assert answer.json()["cause"].startswith("body.name")
    assert "x-injected" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/v1/blobs/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/blobs/%2e%2e/%2e%2e/etc/passwd",
        "/v1/blobs/..%5c..%5cserver.db",
        "/v1/blobs/" + "0" * 63 + "%00",
        "/v1/blobs/x%0d%0aSet-Cookie:%20a=b",
        "/v1/blobs/" + "a" * 5000,
        "/v1/blobs/",
        "/v1/blobs//etc/passwd",
        "/../admin-token",
        "/v1/../admin-token",
    ],
)
def test_a_path_that_climbs_or_breaks_lines_finds_nothing(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert code(answer) in ("unknown-blob", "unknown-path")
    assert "set-cookie" not in answer.headers
    assert len(answer.text) < 20_000


@pytest.mark.parametrize(
    "written",
    [
        {"examples": -1},
        {"examples": 0},
        {"examples": 2**63},
        {"examples": 10**400},
        {"examples": 1.5},
        {"examples": None},
        {"memory_limit_bytes": -(2**63)},
        {"memory_limit_bytes": 1e400},
        {"memory_limit_bytes": float("nan")},
        {"threads": 10**9},
        {"profile": "x" * 101},
        {"profile": "\ud800"},
        {"formats": ["onnx"] * 1000 + ["other"]},
        {"formats": "onnx"},
    ],
)
def test_counts_that_are_none_are_refused_by_field(task: Any, client: TestClient, written: dict[str, Any]) -> None:
    answer = enrol(client, task, capabilities=CAPABILITIES | written)
    assert code(answer) == "invalid-request"
    assert next(iter(written)) in answer.json()["cause"] or "JSON" in answer.json()["cause"]
    assert len(answer.text) < 2000


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (gzip.compress(b" " * 10_000_000 + b"{}"), "application/json"),
        (b"\xff\xfe{}", "application/json"),
        (b"{}", "text/plain"),
        (b"schema_version=1", "application/x-www-form-urlencoded"),
        (b"<x/>", "application/xml"),
        (b"[]", "application/json"),
        (b"", "application/json"),
        (b'{"schema_version": 2}', "application/json"),
        (b'{"surprise": 1}', "application/json"),
    ],
)
def test_a_body_that_is_not_the_message_is_refused(
    client: TestClient, phone: Any, content: bytes, media_type: str
) -> None:
    headers = {"content-type": media_type, "content-encoding": "gzip"}
    answer = client.post(f"/v1/devices/{phone.device_id}/check-in", content=content, headers=headers)
    assert code(answer) in ("invalid-request", "bad-request")  # the latter for what is no text at all


def test_an_update_of_another_member_is_rejected_and_counts_nowhere(task: Any, client: TestClient, phone: Any) -> None:
    mine = task.assignment(phone.device_id)
    shallow = mine.model_copy(update={"member": mine.member.model_copy(update={"depth": 1, "quantized_layers": 0})})
    answer = client.put(f"/v1/assignments/{mine.assignment_id}/update", content=task.content(shallow, 1.0))
    found = ReportResponse.model_validate(answer.json())
    assert found.status == "rejected"
    assert "tensors of the member are missing" in found.reason
    assert task.rounds.task_status().rounds[0].accepted == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_an_update_that_would_poison_the_model_is_rejected(
    task: Any, client: TestClient, phone: Any, value: float
) -> None:
    mine = task.assignment(phone.device_id)
    answer = client.put(f"/v1/assignments/{mine.assignment_id}/update", content=task.content(mine, value))
    assert ReportResponse.model_validate(answer.json()).status == "rejected"
    assert task.rounds.task_status().rounds[0].accepted == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "GET\x00"])
def test_what_is_read_only_has_no_other_method(client: TestClient, method: str) -> None:
    headers = {"x-http-method-override": "POST", "x-original-url": "/v1/admin/task/end"}
    answer = client.request(method, "/v1/task", headers=headers)
    assert code(answer) == "wrong-method"


def test_a_header_that_claims_to_be_another_address_or_the_owner_opens_nothing(task: Any, client: TestClient) -> None:
    headers = {"x-forwarded-for": "127.0.0.1", "x-forwarded-user": "admin", "forwarded": "for=127.0.0.1"}
    client.auth = None
    assert code(client.post("/v1/admin/task/end", headers=headers)) == "admin-token-required"
    assert task.rounds.task_status().state == "running"
