"""A folder of files named by their SHA-256."""

import hashlib
from pathlib import Path

from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError


class BlobFolder:
    """Content-addressed files: written once, never changed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, sha256: str) -> Path:
        """Where the blob lies; spread over 256 folders, for file systems that are slow with large ones."""
        return self._root / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """Store `content` durably and return its SHA-256. Storing the same content again changes nothing."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        if not path.is_file():
            write_atomically(path, content)
        return sha256

    def read(self, sha256: str) -> bytes:
        """The content, checked against its name.

        Raises:
            QuadloomError: missing or altered.
        """
        path = self.path(sha256)
        content = path.read_bytes() if path.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            what = "is missing" if content is None else "does not have the content of its name"
            raise QuadloomError(f"the stored blob {path} {what}", remedy="restore the state folder from a backup")
        return content
