"""Who vouches for a family: a detached Ed25519 signature over its manifest, which names every file by its hash.

``family.json.sig`` holds the base64 of the signature over `CONTEXT` and the bytes of ``family.json``, and a line end.
"""

import base64
import re
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from quadloom_runtime.contract.wire import MANIFEST_SIGNATURE_PATTERN
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import SIGNATURE_NAME, read_manifest_file

CONTEXT: Final = b"quadloom family manifest v1\n"
"""Goes before the manifest, so that a signature of something else, a request say, is never one of a family."""
LONGEST_FILE_BYTES: Final = 200
SIGN_REMEDY: Final = "sign it with `quadloom export --signing-key FILE`"


class UnsignedFamilyError(QuadloomError):
    """A family without a signature, where one is asked for."""

    def __init__(self, source: str) -> None:
        super().__init__(f"{source} is not signed", remedy=SIGN_REMEDY)


class AlteredFamilyError(QuadloomError):
    """A manifest that is not the one that was signed, or signed by another key."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"the signature of {source} is not one of it by the family key",
            remedy="do not use it: get it again from whoever holds the key, and the key from them too",
        )


def sign_manifest(content: bytes, key: Ed25519PrivateKey) -> str:
    """The signature of a manifest as it travels: base64 of 64 bytes."""
    return base64.b64encode(key.sign(CONTEXT + content)).decode()


def verify_manifest(content: bytes, signature: str | None, key: Ed25519PublicKey, *, source: str) -> None:
    """Check that the holder of `key` signed these bytes; `source` names them in errors.

    Raises:
        UnsignedFamilyError: there is no signature.
        AlteredFamilyError: it is not one of these bytes by this key.
    """
    if signature is None:
        raise UnsignedFamilyError(source)
    try:
        key.verify(base64.b64decode(signature, validate=True), CONTEXT + content)
    except (ValueError, InvalidSignature):
        raise AlteredFamilyError(source) from None


def write_signature(folder: Path, key: Ed25519PrivateKey) -> None:
    """Sign the manifest of a family folder as it lies there."""
    signature = sign_manifest(read_manifest_file(folder), key)
    write_atomically(folder / SIGNATURE_NAME, f"{signature}\n".encode())


def read_signature(folder: Path) -> str | None:
    """The signature beside a manifest, None where there is none. Whether it is right is not known yet.

    Raises:
        QuadloomError: the file is not a signature.
    """
    path = folder / SIGNATURE_NAME
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise QuadloomError(f"{path} cannot be read: {error.strerror}", remedy=SIGN_REMEDY) from None
    signature = content.decode("latin-1").removesuffix("\n")
    if re.fullmatch(MANIFEST_SIGNATURE_PATTERN, signature) is None:
        raise QuadloomError(f"{path} holds no signature: {signature[:80]!r}", remedy=SIGN_REMEDY)
    return signature
