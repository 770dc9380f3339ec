"""A folder of files named by their SHA-256."""

import hashlib
import re
from collections.abc import Set
from pathlib import Path

from quadloom_runtime.durable_files import make_folder, rename_durably, write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import file_sha256


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

    def adopt(self, file: Path, sha256: str) -> None:
        """Take a file whose content has this hash and is on the disk already."""
        path = self.path(sha256)
        make_folder(path.parent)
        rename_durably(file, path)

    def keep_only(self, names: Set[str]) -> None:
        """Remove every blob that is not among these hashes."""
        for path in self._root.glob("??/*"):
            if path.name not in names and _is_sha256(path.name):
                path.unlink(missing_ok=True)

    def checked_path(self, sha256: str) -> Path:
        """Where the blob lies, after checking its content against its name.

        Raises:
            QuadloomError: missing or altered.
        """
        return checked_file(self.path(sha256), sha256)


def checked_file(path: Path, sha256: str) -> Path:
    """The file's own path, after checking its content.

    Raises:
        QuadloomError: missing or altered.
    """
    found = file_sha256(path) if path.is_file() else None
    if found != sha256:
        what = "is missing" if found is None else f"does not have the content that was stored, SHA-256 {sha256}"
        raise QuadloomError(f"the stored file {path} {what}", remedy="restore the state folder from a backup")
    return path


def _is_sha256(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None
