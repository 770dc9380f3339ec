"""Only signed requests of enrolled devices get through: each other one is refused by a code of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from quadloom_runtime.contract.signatures import MAX_CLOCK_SKEW_S
from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_server.api.app import create_app
from quadloom_server.rounds import control
from quadloom_server.store.tables import Device, UsedNonce

FIELDS = ("content-digest", "signature-input", "signature")
DEVICE_ROUTES = [
    ("POST", "/v1/devices"),
    ("POST", "/v1/devices/{device}/check-in"),
    ("GET", "/v1/blobs/{blob}"),
    ("HEAD", "/v1/blobs/{blob}"),
    ("PUT", "/v1/assignments/{assignment}/update"),
    ("POST", "/v1/assignments/{assignment}/failure"),
]


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=1, min_devices=2)


@pytest.fixture
def client(task: Any) -> Iterator[TestClient]:
    with TestClient(create_app(task.rounds), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def phone(task: Any) -> Any:
    (device_id,) = task.enrol("phone")
    return task.auth("phone", device_id)


@pytest.fixture
def tablet(task: Any) -> Any:
    (device_id,) = task.enrol("tablet")
    return task.auth("tablet", device_id)


def code(answer: Any) -> str:
    assert answer.status_code >= 400, answer.text
    return ErrorResponse.model_validate(answer.json()).code


def blob(task: Any) -> str:
    return f"/v1/blobs/{task.family.manifest_sha256}"


@pytest.mark.usefixtures("tablet")
@pytest.mark.parametrize(("method", "path"), DEVICE_ROUTES)
def test_every_route_of_devices_refuses_unsigned_requests(
    task: Any, client: TestClient, phone: Any, method: str, path: str
) -> None:
    assignment = task.assignment(phone.device_id).assignment_id
    url = path.format(device=phone.device_id, blob=task.family.manifest_sha256, assignment=assignment)
    answer = client.request(method, url, content=b"" if method in ("GET", "HEAD") else b"{}")
    assert answer.status_code == 401
    if method != "HEAD":
        assert code(answer) == "unsigned-request"
    (row,) = [each for each in task.rounds.task_status().devices if each.device_id == phone.device_id]
    assert row.state == "open", "nothing may have happened to its assignment"


def test_what_is_open_is_read_only_and_needs_no_signature(client: TestClient) -> None:
    for path in ("/", "/v1/task", "/healthz"):
        assert client.get(path).status_code == 200
        assert client.post(path).status_code == 405


@pytest.mark.parametrize("missing", FIELDS)
def test_a_field_that_is_missing_or_sent_twice_is_malformed(
    task: Any, client: TestClient, phone: Any, missing: str
) -> None:
    fields = phone.sign("GET", blob(task), b"")
    rest = {name: value for name, value in fields.items() if name != missing}
    assert code(client.get(blob(task), headers=rest)) == "malformed-signature"
    twice = [*fields.items(), (missing, fields[missing])]
    assert code(client.get(blob(task), headers=twice)) == "malformed-signature"


def test_a_field_outside_the_profile_is_malformed(task: Any, client: TestClient, phone: Any) -> None:
    fields = phone.sign("GET", blob(task), b"")
    fields["signature-input"] = fields["signature-input"].replace('alg="ed25519"', 'alg="none"')
    assert code(client.get(blob(task), headers=fields)) == "malformed-signature"


def test_a_signature_of_another_request_or_by_another_key_is_bad(
    task: Any, client: TestClient, phone: Any, tablet: Any
) -> None:
    other_path = phone.sign("GET", "/v1/blobs/" + "0" * 64, b"")
    assert code(client.get(blob(task), headers=other_path)) == "bad-signature"
    other_method = phone.sign("HEAD", blob(task), b"")
    assert code(client.get(blob(task), headers=other_method)) == "bad-signature"
    other_query = phone.sign("GET", blob(task) + "?part=1", b"")
    assert code(client.get(blob(task) + "?part=2", headers=other_query)) == "bad-signature"
    tablet.device_id = phone.device_id
    assert code(client.get(blob(task), auth=tablet)) == "bad-signature"


def test_a_query_that_is_signed_passes(task: Any, client: TestClient, phone: Any) -> None:
    assert client.get(blob(task) + "?part=1&x=%20", auth=phone).status_code == 200


@pytest.mark.parametrize("sent", [b"", b'{"schema_version": 2}', b'{"schema_version": 1} '])
def test_a_body_that_was_not_signed_is_refused(client: TestClient, phone: Any, sent: bytes) -> None:
    url = f"/v1/devices/{phone.device_id}/check-in"
    fields = phone.sign("POST", url, b'{"schema_version": 1}')
    answer = client.post(url, content=sent, headers=fields | {"content-type": "application/json"})
    assert (answer.status_code, code(answer)) == (400, "body-digest-mismatch")


@pytest.mark.usefixtures("tablet")
def test_an_altered_upload_does_not_count_and_leaves_its_assignment_open(
    task: Any, client: TestClient, phone: Any
) -> None:
    assignment = task.assignment(phone.device_id)
    url = f"/v1/assignments/{assignment.assignment_id}/update"
    fields = phone.sign("PUT", url, task.content(assignment, 1.0))
    assert code(client.put(url, content=task.content(assignment, 9.0), headers=fields)) == "body-digest-mismatch"
    assert task.assignment(phone.device_id).assignment_id == assignment.assignment_id
    assert task.rounds.task_status().rounds[0].accepted == 0


def test_a_body_where_none_belongs_must_be_signed_too(task: Any, client: TestClient, phone: Any) -> None:
    fields = phone.sign("GET", blob(task), b"")
    assert code(client.request("GET", blob(task), content=b"x", headers=fields)) == "body-digest-mismatch"


@pytest.mark.parametrize("off_by_s", [-MAX_CLOCK_SKEW_S - 1, MAX_CLOCK_SKEW_S + 1, 10**9])
def test_a_wrong_clock_is_refused_with_the_servers_time(
    task: Any, client: TestClient, phone: Any, off_by_s: int
) -> None:
    task.now_s = 2_000_000_000.5
    phone._clock = lambda: task.now_s + off_by_s
    answer = client.get(blob(task), auth=phone)
    assert code(answer) == "clock-skew"
    assert answer.json()["server_time_s"] == task.now_s


@pytest.mark.parametrize("off_by_s", [-MAX_CLOCK_SKEW_S, MAX_CLOCK_SKEW_S])
def test_a_clock_within_the_bound_passes(task: Any, client: TestClient, phone: Any, off_by_s: int) -> None:
    phone._clock = lambda: task.now_s + off_by_s
    assert client.get(blob(task), auth=phone).status_code == 200


def test_a_replayed_request_is_refused_also_after_a_restart(task: Any, client: TestClient, phone: Any) -> None:
    url = f"/v1/devices/{phone.device_id}/check-in"
    fields = phone.sign("POST", url, b"{}") | {"content-type": "application/json"}
    assert client.post(url, content=b"{}", headers=fields).status_code == 200
    assert code(client.post(url, content=b"{}", headers=fields)) == "replayed-request"
    task.restart()
    with TestClient(create_app(task.rounds)) as after:
        assert code(after.post(url, content=b"{}", headers=fields)) == "replayed-request"
        assert after.post(url, json={}, auth=phone).status_code == 200


def test_two_devices_may_have_drawn_the_same_nonce(
    task: Any, client: TestClient, phone: Any, tablet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", bytes)
    assert client.get(blob(task), auth=phone).status_code == 200
    assert client.get(blob(task), auth=tablet).status_code == 200
    assert code(client.get(blob(task), auth=phone)) == "replayed-request"


def test_nonces_are_kept_for_exactly_as_long_as_their_request_would_pass(
    task: Any, client: TestClient, phone: Any
) -> None:
    phone._clock = lambda: task.now_s + MAX_CLOCK_SKEW_S  # signed as far ahead as it may be
    fields = phone.sign("GET", blob(task), b"")
    assert client.get(blob(task), headers=fields).status_code == 200
    phone._clock = lambda: task.now_s
    for _ in range(2 * MAX_CLOCK_SKEW_S // 10):
        task.now_s += 10
        assert client.get(blob(task), auth=phone).status_code == 200
        assert code(client.get(blob(task), headers=fields)) == "replayed-request"
    task.now_s += 1
    assert code(client.get(blob(task), headers=fields)) == "clock-skew"
    task.now_s += 2 * MAX_CLOCK_SKEW_S
    client.get(blob(task), auth=phone)
    with task.state.sessions() as session:
        assert session.scalar(select(func.count()).select_from(UsedNonce)) == 1


def test_a_device_that_nobody_enrolled_is_unknown(task: Any, client: TestClient) -> None:
    stranger = task.auth("stranger", "00000000-0000-0000-0000-000000000000")
    answer = client.get(blob(task), auth=stranger)
    assert (answer.status_code, code(answer)) == (401, "unknown-device")


@pytest.mark.usefixtures("tablet")
def test_a_revoked_device_is_refused_everywhere(task: Any, client: TestClient, phone: Any) -> None:
    assignment = task.assignment(phone.device_id)
    with task.rounds.turn() as turn:
        control.revoke_device(turn, phone.device_id)
    for method, path in DEVICE_ROUTES[1:]:
        url = path.format(device=phone.device_id, blob=task.family.manifest_sha256, assignment=assignment.assignment_id)
        answer = client.request(method, url, content=b"" if method in ("GET", "HEAD") else b"{}", auth=phone)
        assert answer.status_code == 403
        if method != "HEAD":
            assert code(answer) == "revoked-device"


def test_a_device_acts_on_nobody_but_itself(client: TestClient, phone: Any, tablet: Any) -> None:
    answer = client.post(f"/v1/devices/{tablet.device_id}/check-in", json={}, auth=phone)
    assert (answer.status_code, code(answer)) == (403, "not-your-device")


def test_a_device_reports_nothing_but_its_own_assignments(
    task: Any, client: TestClient, phone: Any, tablet: Any
) -> None:
    assignment = task.assignment(tablet.device_id)
    url = f"/v1/assignments/{assignment.assignment_id}"
    stolen = client.put(f"{url}/update", content=task.content(assignment, 9.0), auth=phone)
    assert (stolen.status_code, code(stolen)) == (403, "not-your-assignment")
    spoiled = client.post(f"{url}/failure", json={"kind": "other", "message": "sabotage"}, auth=phone)
    assert (spoiled.status_code, code(spoiled)) == (403, "not-your-assignment")
    mine = client.put(f"{url}/update", content=task.content(assignment, 1.0), auth=tablet)
    assert mine.json()["status"] == "accepted"


def test_what_every_request_writes_does_not_wait_for_the_disk_and_what_counts_does(task: Any) -> None:
    levels = []
    for sessions in (task.state.quick_sessions, task.state.sessions):
        with sessions() as session:
            levels.append(session.connection().exec_driver_sql("PRAGMA synchronous").scalar())
    assert levels == [1, 2], "1 is NORMAL: no fsync per commit in WAL mode; 2 is FULL"


def test_a_device_is_seen_whenever_it_asks(task: Any, client: TestClient, phone: Any) -> None:
    task.now_s += 50
    client.get(blob(task), auth=phone)
    with task.state.sessions() as session:
        assert session.get_one(Device, phone.device_id).seen_at_s == task.now_s


def test_the_openapi_document_says_which_routes_need_which_proof(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"device-signature", "admin-token"}
    for path, methods in document["paths"].items():
        wanted: list[dict[str, list[str]]] = []
        if path.startswith("/v1/") and path != "/v1/task":
            wanted = [{"admin-token": []}] if path.startswith("/v1/admin/") else [{"device-signature": []}]
        for operation in methods.values():
            assert operation.get("security", []) == wanted, path
            for refused in ("4XX", "5XX"):
                schema = operation["responses"][refused]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorResponse"}
