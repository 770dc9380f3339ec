"""Keys in files, as OpenSSL reads and writes them."""

import base64
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.keys import (
    create_private_key,
    load_private_key,
    load_public_key,
    parse_public_key,
    public_key_text,
    write_public_key,
)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(*words: str) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60).stdout


def test_a_new_key_is_its_owners_alone_and_comes_back(tmp_path: Path) -> None:
    key = create_private_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    again = load_private_key(tmp_path / "key")
    key.public_key().verify(again.sign(b"message"), b"message")


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    create_private_key(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(QuadloomError, match="there is a file at"):
        create_private_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_the_text_of_a_public_key_is_that_key(tmp_path: Path) -> None:
    public = create_private_key(tmp_path / "key").public_key()
    write_public_key(tmp_path / "key.pub", public)
    text = public_key_text(public)
    assert base64.b64decode(text) == public.public_bytes_raw()
    assert parse_public_key(text) == load_public_key(tmp_path / "key.pub") == public


@needs_openssl
def test_openssl_verifies_with_our_files_and_we_with_its(tmp_path: Path) -> None:
    private, public, message, signature = (str(tmp_path / name) for name in ("key", "key.pub", "message", "signature"))
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    theirs = load_private_key(Path(private))
    assert load_public_key(Path(public)) == theirs.public_key()

    ours = create_private_key(tmp_path / "ours")
    write_public_key(tmp_path / "ours.pub", ours.public_key())
    Path(message).write_bytes(b"message")
    Path(signature).write_bytes(ours.sign(b"message"))
    verify = ("pkeyutl", "-verify", "-pubin", "-inkey", str(tmp_path / "ours.pub"), "-rawin", "-in", message)
    assert b"Verified Successfully" in openssl(*verify, "-sigfile", signature)


def other_files() -> dict[str, bytes]:
    key = Ed25519PrivateKey.generate()
    pkcs8 = PrivateFormat.PKCS8
    return {
        "nothing": b"",
        "garbage": b"\x00\xff" * 100,
        "half": key.private_bytes(Encoding.PEM, pkcs8, NoEncryption())[:60],
        "der": key.private_bytes(Encoding.DER, pkcs8, NoEncryption()),
        "encrypted": key.private_bytes(Encoding.PEM, pkcs8, BestAvailableEncryption(b"password")),
        "elliptic": generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, pkcs8, NoEncryption()),
    }


@pytest.mark.parametrize("kind", list(other_files()))
def test_what_is_no_key_is_refused_with_the_way_to_make_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(other_files()[kind])
    for load in (load_private_key, load_public_key):
        with pytest.raises(QuadloomError, match=f"{path} holds no .*Ed25519") as raised:
            load(path)
        assert "quadloom keys" in raised.value.remedy


def test_a_private_key_is_not_taken_for_a_public_one_nor_the_other_way_round(tmp_path: Path) -> None:
    write_public_key(tmp_path / "key.pub", create_private_key(tmp_path / "key").public_key())
    with pytest.raises(QuadloomError, match="no Ed25519 public key"):
        load_public_key(tmp_path / "key")
    with pytest.raises(QuadloomError, match="no unencrypted Ed25519 private key"):
        load_private_key(tmp_path / "key.pub")


def test_an_absent_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuadloomError, match=str(tmp_path / "absent")):
        load_public_key(tmp_path / "absent")


@given(st.text(max_size=80) | st.binary(max_size=48).map(lambda content: base64.b64encode(content).decode()))
def test_a_text_is_a_key_of_32_bytes_or_refused(text: str) -> None:
    try:
        key = parse_public_key(text)
    except QuadloomError:
        return
    assert len(base64.b64decode(text)) == 32
    assert key.public_bytes_raw() == base64.b64decode(text)
