"""Signed requests: an independent implementation agrees both ways, and nothing that is signed can be changed."""

import base64
import datetime
import hashlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quadloom_runtime.contract.signatures import (
    BadSignatureError,
    MalformedSignatureError,
    RequestSignature,
    parse_signature,
    sign,
)

KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
NOW_S = 1_700_000_000
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT"])
PATHS = st.from_regex(r"/v1/[a-z0-9/%._~-]{0,40}", fullmatch=True).filter(lambda path: "%" not in path)
QUERIES = st.from_regex(r"[a-z0-9=&+-]{1,30}", fullmatch=True)
TARGETS = st.one_of(PATHS, st.builds("{}?{}".format, PATHS, QUERIES))
NONCES = st.binary(min_size=16, max_size=16)


@dataclass
class Request:
    """What the independent implementation signs and verifies."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class Resolver(HTTPSignatureKeyResolver):  # type: ignore[misc]
    def resolve_private_key(self, key_id: str) -> Any:
        return {"device-1": KEY}[key_id]

    def resolve_public_key(self, key_id: str) -> Any:
        return {"device-1": KEY.public_key()}[key_id]


def signed(method: str, target: str, content: bytes, *, nonce: bytes = bytes(16), **changed: Any) -> dict[str, str]:
    fields = {"key_id": "device-1", "created_s": NOW_S} | changed
    digest = hashlib.sha256(content).digest()
    return sign(KEY, method=method, target=target, content_sha256=digest, nonce=nonce, **fields)


def parsed(headers: dict[str, str]) -> RequestSignature:
    return parse_signature(
        content_digest=headers["content-digest"],
        signature_input=headers["signature-input"],
        signature=headers["signature"],
    )


@given(METHODS, TARGETS, st.binary(max_size=100), NONCES)
def test_the_independent_implementation_accepts_what_is_signed_here(
    method: str, target: str, content: bytes, nonce: bytes
) -> None:
    created_s = int(datetime.datetime.now(tz=datetime.UTC).timestamp())
    headers = signed(method, target, content, nonce=nonce, created_s=created_s)
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=Resolver())
    with warnings.catch_warnings(action="ignore"):
        (result,) = verifier.verify(Request(method, f"https://fleet.example{target}", headers), body=content)
    covered = ["@method", "@path", *(["@query"] if "?" in target else []), "content-digest"]
    assert [each.strip('"') for each in result.covered_components][: len(covered)] == covered
    assert result.parameters["nonce"] == base64.b64encode(nonce).decode()
    assert (result.parameters["created"], result.parameters["keyid"]) == (created_s, "device-1")


@given(METHODS, TARGETS, st.binary(max_size=100), NONCES)
def test_what_the_independent_implementation_signs_is_accepted_here(
    method: str, target: str, content: bytes, nonce: bytes
) -> None:
    request = Request(method, f"https://fleet.example{target}")
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=Resolver()).sign(
        request,
        key_id="device-1",
        created=datetime.datetime.fromtimestamp(NOW_S, tz=datetime.UTC),
        nonce=base64.b64encode(nonce).decode(),
        label="quadloom",
        covered_component_ids=("@method", "@path", *(["@query"] if "?" in target else []), "content-digest"),
        body=content,
    )
    found = parsed({name.lower(): value for name, value in request.headers.items()})
    found.verify(KEY.public_key(), method=method, target=target)
    assert found.content_sha256 == hashlib.sha256(content).digest()
    assert (found.created_s, found.key_id, base64.b64decode(found.nonce)) == (NOW_S, "device-1", nonce)


@given(METHODS, TARGETS, METHODS, TARGETS)
@example("GET", "/v1/a", "GET", "/v1/a?")
@example("GET", "/v1/a?b", "GET", "/v1/a%3Fb")
def test_another_method_path_or_query_is_refused(
    method: str, target: str, other_method: str, other_target: str
) -> None:
    assume((method, target) != (other_method, other_target))
    found = parsed(signed(method, target, b"body"))
    with pytest.raises(BadSignatureError):
        found.verify(KEY.public_key(), method=other_method, target=other_target)


@given(st.sampled_from(["content-digest", "signature-input", "signature"]), st.data())
def test_any_changed_character_of_any_field_is_refused(name: str, data: st.DataObject) -> None:
    """Body, time, nonce, key id and the signature itself: all travel in these fields."""
    headers = signed("PUT", "/v1/assignments/a/update?part=1", b"body", nonce=bytes(range(16)))
    value = headers[name]
    place = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.characters(max_codepoint=255))
    assume(letter != value[place])
    headers[name] = value[:place] + letter + value[place + 1 :]
    with pytest.raises((MalformedSignatureError, BadSignatureError)):
        parsed(headers).verify(KEY.public_key(), method="PUT", target="/v1/assignments/a/update?part=1")


def test_another_key_is_refused() -> None:
    found = parsed(signed("GET", "/v1/blobs/a", b""))
    with pytest.raises(BadSignatureError, match="'device-1'"):
        found.verify(OTHER_KEY.public_key(), method="GET", target="/v1/blobs/a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-digest", ""),
        ("content-digest", "sha-512=:AAAA:"),
        ("content-digest", "sha-256=:" + "A" * 42 + "B=:"),  # a second text of the same 32 bytes
        ("signature", "quadloom=:" + "A" * 85 + "B==:"),
        ("signature", "other=:" + "A" * 86 + "==:"),
        ("signature-input", ""),
        ("signature-input", 'quadloom=();created=1;keyid="a";alg="ed25519";nonce="' + "A" * 22 + '=="'),
        ("signature-input", 'quadloom=("@method");created=1;keyid="a";alg="ed25519";nonce="' + "A" * 22 + '=="'),
    ],
)
def test_a_field_outside_the_profile_is_malformed_and_named(name: str, value: str) -> None:
    headers = signed("GET", "/v1/blobs/a", b"") | {name: value}
    with pytest.raises(MalformedSignatureError, match=name.title()):
        parsed(headers)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (";created=1700000000", ""),
        ("created=1700000000", "created=-1"),
        ("created=1700000000", "created=01"),
        ("created=1700000000", "created=1.5"),
        ("created=1700000000", "created=9999999999999999999999"),
        ('alg="ed25519"', 'alg="hmac-sha256"'),
        ('"content-digest"', '"content-digest" "content-digest"'),
        ('keyid="device-1"', 'keyid="device-1";keyid="device-2"'),
        ('keyid="device-1"', 'keyid="../../etc\r\nX: y"'),
        ('keyid="device-1"', 'keyid="' + "a" * 65 + '"'),
        ('nonce="AAAAAAAAAAAAAAAAAAAAAA=="', 'nonce="AAAA"'),
        ("quadloom=", "quadloom=(),quadloom="),
    ],
)
def test_parameters_outside_the_profile_are_malformed(old: str, new: str) -> None:
    headers = signed("GET", "/v1/blobs/a", b"")
    changed = headers["signature-input"].replace(old, new)
    assert changed != headers["signature-input"]
    with pytest.raises(MalformedSignatureError, match="Signature-Input"):
        parsed(headers | {"signature-input": changed})
