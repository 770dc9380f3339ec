"""Uploads under way: each grows in a file of its own and is hashed as it comes, so that memory holds none of them."""

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quadloom_runtime.durable_files import make_folder, using


@dataclass(frozen=True)
class ReceivedUpload:
    """A whole upload on disk, not yet checked; whoever counts it moves the file away."""

    path: Path
    sha256: str
    size_bytes: int


class GrowingUpload:
    """An upload of which more may come. Its writes block: call them in a thread."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file, self._hash, self._size_bytes = path, file, hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Add what came.

        Raises:
            StorageError: the disk does not take it.
        """
        with using(self._path):
            self._file.write(chunk)
        self._hash.update(chunk)
        self._size_bytes += len(chunk)

    def finish(self) -> ReceivedUpload:
        """All of it, as others see it. It is not on the disk for good yet: only what counts needs to be."""
        with using(self._path):
            self._file.close()
        return ReceivedUpload(self._path, self._hash.hexdigest(), self._size_bytes)


class UploadFolder:
    """Where uploads grow. Nothing in it outlives the server on purpose."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clear(self) -> None:
        """Remove what a killed server left, and have the folder ready."""
        make_folder(self._root)
        for leftover in self._root.iterdir():
            leftover.unlink()

    @contextmanager
    def receiving(self) -> Iterator[GrowingUpload]:
        """One upload; its file is gone at the end unless somebody moved it."""
        path = self._root / uuid.uuid4().hex
        try:
            with using(path):
                file = path.open("xb")
            with file:
                yield GrowingUpload(path, file)
        finally:
            path.unlink(missing_ok=True)
