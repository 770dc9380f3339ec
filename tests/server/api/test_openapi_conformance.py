"""The real application under requests made from its own OpenAPI document, signed so that they get past the door.

Each operation is tried as it is documented and otherwise; half of the time with ids that exist. No answer may be a
server error, and each must be one that the document has.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests import PreparedRequest
from requests.auth import AuthBase
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from quadloom_runtime.contract.wire import Assignment, ErrorResponse
from quadloom_server.api.app import create_app
from quadloom_server.errors import RevokedDeviceError
from quadloom_server.limits import Limits
from quadloom_server.trust import tokens

UPDATE_TYPE = "application/vnd.safetensors"
UNLIMITED = Limits(requests_per_minute=10**9, unsigned_requests_per_minute=10**9)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    ("POST", "/v1/devices"),
    ("POST", "/v1/devices/{device_id}/check-in"),
    ("GET", "/v1/blobs/{sha256}"),
    ("PUT", "/v1/assignments/{assignment_id}/update"),
    ("POST", "/v1/assignments/{assignment_id}/failure"),
    ("POST", "/v1/admin/task/start"),
    ("POST", "/v1/admin/task/pause"),
    ("POST", "/v1/admin/task/end"),
    ("GET", "/v1/admin/tokens"),
    ("POST", "/v1/admin/tokens"),
    ("POST", "/v1/admin/tokens/{token_id}/revoke"),
    ("GET", "/v1/admin/devices"),
    ("POST", "/v1/admin/devices/{device_id}/revoke"),
    ("GET", "/v1/task"),
    ("GET", "/healthz"),
]
WITH_BODY = [each for each in OPERATIONS if each[1] in ("/v1/devices", "/v1/admin/tokens") and each[0] == "POST"] + [
    each for each in OPERATIONS if each[1].endswith(("/check-in", "/failure"))
]
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer(UPDATE_TYPE)
def as_it_is(_context: schemathesis.SerializationContext, value: bytes) -> bytes:
    """Updates travel as bytes."""
    return value


schemathesis.openapi.media_type(UPDATE_TYPE, st.binary(max_size=200))


class Proof(AuthBase):
    """What a request needs to get past the door: the device's signature, or the owner's token."""

    def __init__(self, device: Any, admin_token: str) -> None:
        self._device, self._admin_token = device, admin_token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body or b""
        content = body.encode() if isinstance(body, str) else bytes(body)
        if request.path_url.startswith("/v1/admin/"):
            request.headers["Authorization"] = f"Bearer {self._admin_token}"
        else:
            request.headers.update(self._device.sign(request.method, request.path_url, content))
        return request


@pytest.fixture
def task(make_task: Callable[..., Any]) -> Any:
    return make_task(rounds=10**6, evaluator=None)


@pytest.fixture
def device(task: Any) -> Any:
    (device_id,) = task.enrol("phone")
    return task.auth("phone", device_id)


@pytest.fixture
def app(task: Any) -> FastAPI:
    return create_app(task.rounds, limits=UNLIMITED)


@pytest.fixture
def schema(app: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture
def proof(task: Any, device: Any) -> Proof:
    return Proof(device, (task.state_folder / "admin-token").read_text().strip())


def open_assignment(task: Any, device: Any) -> Assignment | None:
    """What the device has to do, unless the test has shut it out or ended the task."""
    with suppress(RevokedDeviceError):
        found: Assignment | None = task.rounds.check_in(device.device_id).assignment
        return found
    return None


def existing_ids(task: Any, device: Any) -> dict[str, str]:
    """What a path may name."""
    work = open_assignment(task, device)
    return {
        "device_id": device.device_id,
        "assignment_id": work.assignment_id if work else "none",
        "sha256": task.family.manifest_sha256,
        "token_id": token_id(task),
    }


def token_id(task: Any) -> str:
    with task.state.sessions() as session:
        return str(tokens.list_tokens(session, now_s=task.now_s)[0].token_id)


def judge(case: Case, proof: Proof) -> int:
    """Send the request and hold the answer against the document; returns its status."""
    answer = case.call(auth=proof)
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        assert ErrorResponse.model_validate_json(answer.content).remedy
    return int(answer.status_code)


def test_every_operation_of_the_document_is_tried(app: FastAPI) -> None:
    documented = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    assert sorted(documented) == sorted(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_requests_as_documented_get_documented_answers(
    schema: Any, task: Any, device: Any, proof: Proof, method: str, path: str
) -> None:
    statuses = set()

    @given(case=schema[path][method].as_strategy(), exists=st.booleans(), data=st.data())
    @BOUNDED
    def try_one(case: Case, exists: bool, data: st.DataObject) -> None:
        if exists:
            ids = existing_ids(task, device)
            case.path_parameters = {name: ids[name] for name in case.path_parameters or {}}
        if exists and path == "/v1/devices":
            token = data.draw(st.sampled_from([None, "wrong", task.token()]))
            case.body |= {"public_key": device.public_key, "enrolment_token": token}
        if path.endswith("/update"):
            case.body = data.draw(update_bodies(task, device))
        statuses.add(judge(case, proof))
        task.run_background()

    try_one()
    assert any(status < 400 for status in statuses), statuses


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_requests_other_than_documented_are_refused_as_documented(
    schema: Any, task: Any, device: Any, proof: Proof, method: str, path: str
) -> None:
    ids, statuses = existing_ids(task, device), set()

    @given(case=schema[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE), exists=st.booleans())
    @BOUNDED
    def try_one(case: Case, exists: bool) -> None:
        if exists:
            case.path_parameters = {name: ids[name] for name in case.path_parameters or {}}
        statuses.add(judge(case, proof))

    try_one()
    assert statuses & {400, 422}, statuses


def update_bodies(task: Any, device: Any) -> st.SearchStrategy[bytes]:
    """Honest updates, altered ones, and bytes that are none."""
    work = open_assignment(task, device)
    if work is None:
        return st.binary(max_size=100)
    honest = task.content(work, 0.01)

    def altered(place: int, junk: bytes) -> bytes:
        return honest[:place] + junk + honest[place + len(junk) :]

    places = st.integers(0, len(honest))
    return st.one_of(st.just(honest), st.builds(altered, places, st.binary(max_size=4)), st.binary(max_size=100))
