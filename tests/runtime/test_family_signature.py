"""A family is vouched for by the signature of its manifest, or it is not."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import save_manifest
from quadloom_runtime.family_signature import (
    AlteredFamilyError,
    UnsignedFamilyError,
    read_signature,
    sign_manifest,
    verify_manifest,
    write_signature,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
CONTENT = b'{"schema_version": 1}\n'


def test_what_is_signed_is_the_context_and_the_manifest_as_it_lies() -> None:
    signature = base64.b64decode(sign_manifest(CONTENT, KEY))
    PUBLIC.verify(signature, b"quadloom family manifest v1\n" + CONTENT)


def test_a_signed_family_is_vouched_for(family: tuple[Path, FamilyManifest]) -> None:
    folder, _ = family
    write_signature(folder, KEY)
    verify_manifest((folder / "family.json").read_bytes(), read_signature(folder), PUBLIC, source="it")


@given(st.data())
@settings(max_examples=200)
def test_no_altered_manifest_or_signature_passes(data: st.DataObject) -> None:
    content, signature = bytearray(CONTENT), bytearray(base64.b64decode(sign_manifest(CONTENT, KEY)))
    target = data.draw(st.sampled_from([content, signature]))
    target[data.draw(st.integers(0, len(target) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(AlteredFamilyError, match="the signature of it"):
        verify_manifest(bytes(content), base64.b64encode(signature).decode(), PUBLIC, source="it")


@pytest.mark.parametrize("signature", ["", "!", "AAAA", base64.b64encode(bytes(64)).decode(), "\ud800" * 88])
def test_what_is_no_signature_does_not_pass(signature: str) -> None:
    with pytest.raises(AlteredFamilyError):
        verify_manifest(CONTENT, signature, PUBLIC, source="it")


def test_another_key_does_not_vouch() -> None:
    with pytest.raises(AlteredFamilyError):
        verify_manifest(CONTENT, sign_manifest(CONTENT, Ed25519PrivateKey.generate()), PUBLIC, source="it")


def test_the_signature_of_a_message_that_is_no_manifest_does_not_vouch() -> None:
    signature = base64.b64encode(KEY.sign(CONTENT)).decode()
    with pytest.raises(AlteredFamilyError):
        verify_manifest(CONTENT, signature, PUBLIC, source="it")


def test_an_unsigned_family_does_not_pass(family: tuple[Path, FamilyManifest]) -> None:
    assert read_signature(family[0]) is None
    with pytest.raises(UnsignedFamilyError, match="it is not signed"):
        verify_manifest(CONTENT, None, PUBLIC, source="it")


@pytest.mark.parametrize("content", [b"", b"\n", b"AAAA\n", b"\xff" * 88, b"A" * 10_000_000])
def test_a_file_that_is_no_signature_is_named(family: tuple[Path, FamilyManifest], content: bytes) -> None:
    (family[0] / "family.json.sig").write_bytes(content)
    with pytest.raises(QuadloomError, match=r"family\.json\.sig holds no signature"):
        read_signature(family[0])


def test_the_signature_stays_with_its_manifest_and_goes_with_another(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    write_signature(folder, KEY)
    save_manifest(folder, manifest)
    verify_manifest((folder / "family.json").read_bytes(), read_signature(folder), PUBLIC, source="it")
    save_manifest(folder, manifest.model_copy(update={"dropout": 0.5}))
    assert read_signature(folder) is None
