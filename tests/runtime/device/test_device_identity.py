"""A device keeps one key, and signs every attempt anew with it."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_runtime.contract.signatures import RequestSignature, parse_signature
from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_runtime.device.identity import KEY_NAME, RequestSigner, device_key
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.keys import public_key_text

KEY = Ed25519PrivateKey.generate()


def text(key: Ed25519PrivateKey) -> str:
    return public_key_text(key.public_key())


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = device_key(tmp_path / "cache")
    assert text(device_key(tmp_path / "cache")) == text(first)
    assert text(device_key(tmp_path / "other")) != text(first)
    assert stat.S_IMODE((tmp_path / "cache" / KEY_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_damaged_key_is_an_error_not_a_new_identity(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_NAME).write_bytes(content)
    with pytest.raises(QuadloomError, match=KEY_NAME):
        device_key(tmp_path)
    assert (tmp_path / KEY_NAME).read_bytes() == content


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QuadloomError, match="/file"):
        device_key(tmp_path / "file")


def exchange(
    answers: list[httpx.Response], *, clock: Callable[[], float], requests: int = 1
) -> tuple[list[RequestSignature], list[httpx.Response]]:
    """Send signed requests to a server that gives these answers; returns what it saw and what came back."""
    seen: list[RequestSignature] = []

    def handle(request: httpx.Request) -> httpx.Response:
        fields = ("content-digest", "signature-input", "signature")
        found = parse_signature(**{name.replace("-", "_"): request.headers[name] for name in fields})
        found.verify(KEY.public_key(), method=request.method, target=request.url.raw_path.decode())
        seen.append(found)
        return answers.pop(0)

    with httpx.Client(auth=RequestSigner(KEY, clock=clock), transport=httpx.MockTransport(handle)) as client:
        given = [client.post("https://fleet.example/v1/devices?x=1", content=b"body") for _ in range(requests)]
    return seen, given


def refusal(code: str, **more: Any) -> httpx.Response:
    body = ErrorResponse(code=code, cause="the test says so", remedy="none", **more)
    return httpx.Response(401, content=body.model_dump_json())


def test_every_attempt_has_a_nonce_of_its_own() -> None:
    seen, _ = exchange([httpx.Response(503)] * 5, clock=lambda: 1000.0, requests=5)
    assert len({each.nonce for each in seen}) == 5
    assert len({each.signature for each in seen}) == 5


def test_a_wrong_clock_is_corrected_once_and_stays_corrected() -> None:
    answers = [refusal("clock-skew", server_time_s=5000.0), httpx.Response(200), httpx.Response(200)]
    seen, given = exchange(answers, clock=lambda: 1000.0, requests=2)
    assert [each.created_s for each in seen] == [1000, 5000, 5000]
    assert [each.status_code for each in given] == [200, 200]


def test_a_server_that_keeps_complaining_about_the_clock_is_believed_once_per_request() -> None:
    answers = [refusal("clock-skew", server_time_s=5000.0), refusal("clock-skew", server_time_s=9000.0)]
    seen, given = exchange(answers, clock=lambda: 1000.0)
    assert [each.created_s for each in seen] == [1000, 5000]
    assert given[0].json()["code"] == "clock-skew"


@pytest.mark.parametrize(
    "answer",
    [
        refusal("clock-skew"),
        refusal("bad-signature", server_time_s=5000.0),
        httpx.Response(401, content=b"<html>"),
        httpx.Response(401, content=b'{"code": "clock-skew", "cause": "", "remedy": "", "server_time_s": NaN}'),
        httpx.Response(401, content=b'{"code": "clock-skew", "cause": "", "remedy": "", "server_time_s": 1e300}'),
    ],
)
def test_any_other_refusal_moves_no_clock_and_is_not_repeated(answer: httpx.Response) -> None:
    seen, given = exchange([answer], clock=lambda: 1000.0)
    assert [each.created_s for each in seen] == [1000]
    assert given[0].status_code == 401
