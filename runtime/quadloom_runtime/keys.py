"""Ed25519 keys in files: PEM as OpenSSL writes it, readable by the owner only.

A device signs its requests with one, an exporter signs families with another. A public key travels as text, the base64
of its 32 bytes.
"""

import base64
import binascii
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.private_files import create_private_file

CREATE_REMEDY = "create a pair with `quadloom keys FILE`, or `openssl genpkey -algorithm ed25519`"


def create_private_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it to a new file that only its owner can read.

    Raises:
        QuadloomError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    try:
        create_private_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise QuadloomError(
            f"there is a file at {path} already", remedy="use that key, or name a file that does not exist"
        ) from None
    except OSError as error:
        raise QuadloomError(
            f"the key file {path} cannot be written: {error.strerror}", remedy="name a file in a folder of yours"
        ) from None
    return key


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        QuadloomError: unreadable, or not an unencrypted Ed25519 key in PEM.
    """
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise QuadloomError(f"{path} holds no unencrypted Ed25519 private key in PEM", remedy=CREATE_REMEDY)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        QuadloomError: unreadable, or not an Ed25519 public key in PEM.
    """
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise QuadloomError(f"{path} holds no Ed25519 public key in PEM", remedy=CREATE_REMEDY)
    return key


def write_public_key(path: Path, key: Ed25519PublicKey) -> None:
    """Write a public key as PEM."""
    write_atomically(path, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def public_key_text(key: Ed25519PublicKey) -> str:
    """The key as it travels: base64 of its 32 bytes."""
    return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def parse_public_key(text: str) -> Ed25519PublicKey:
    """The key behind its text.

    Raises:
        QuadloomError: not the base64 of 32 bytes.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        raise QuadloomError(
            f"{text[:80]!r} is no Ed25519 public key", remedy="send the base64 of the key's 32 bytes"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QuadloomError(f"the key file {path} cannot be read: {error.strerror}", remedy=CREATE_REMEDY) from None
