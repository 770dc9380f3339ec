"""The admin token: made at the first start into a file of the state folder that only its owner can read."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.private_files import create_private_file
from quadloom_server.trust.tokens import new_secret

FILE_NAME = "admin-token"


@dataclass(frozen=True)
class AdminToken:
    """Recognizes the admin token; holds only its hash."""

    sha256: bytes

    def is_token(self, candidate: bytes) -> bool:
        """Whether this is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(hashlib.sha256(candidate).digest(), self.sha256)


def open_admin_token(state_folder: Path) -> AdminToken:
    """Read the token, or make one. To replace it, remove the file and start the server again.

    Raises:
        QuadloomError: the file cannot be read or written, is empty, or others can read it.
    """
    path = state_folder / FILE_NAME
    try:
        if not path.exists():
            create_private_file(path, new_secret().encode() + b"\n")
        mode, token = path.stat().st_mode, path.read_bytes().strip()
    except OSError as error:
        raise QuadloomError(
            f"the admin token {path} cannot be read: {error.strerror}", remedy="make it readable for the server's user"
        ) from None
    if mode & 0o077 and os.name == "posix":
        raise QuadloomError(
            f"others can read the admin token {path}", remedy=f"remove it to get another one: rm {path}"
        )
    if not token:
        raise QuadloomError(f"the admin token {path} is empty", remedy=f"remove it to get another one: rm {path}")
    return AdminToken(hashlib.sha256(token).digest())
