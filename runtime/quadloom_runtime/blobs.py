"""A cache of files addressed by the SHA-256 of their content."""

import os
import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.crash_points import reach
from quadloom_runtime.durable_files import make_folder, rename_durably, using
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import file_sha256

PARTIAL_SUFFIX: Final = ".part"


@dataclass(frozen=True)
class BlobCache:
    """Blobs below `folder`; a blob is under its final name only when its content has been checked."""

    folder: Path

    def path(self, sha256: str) -> Path:
        """Where a blob lies or would lie."""
        return self.folder / sha256[:2] / sha256

    def partial_path(self, sha256: str) -> Path:
        """Where a download of it grows."""
        return self.folder / sha256[:2] / f"{sha256}{PARTIAL_SUFFIX}"

    def holds(self, sha256: str) -> bool:
        """Whether the blob is here and intact; an altered one is removed, so that it is fetched again."""
        path = self.path(sha256)
        if not path.is_file():
            return False
        if file_sha256(path) == sha256:
            return True
        path.unlink(missing_ok=True)
        return False

    def size_here(self, sha256: str) -> int:
        """Bytes of the blob that are here, finished or not; unchecked."""
        for path in (self.path(sha256), self.partial_path(sha256)):
            if path.is_file():
                return path.stat().st_size
        return 0

    def accept_partial(self, sha256: str) -> bool:
        """Check a finished download and give it its final name; False (and removed) if the content is wrong."""
        partial = self.partial_path(sha256)
        with using(partial):
            if file_sha256(partial) != sha256:
                partial.unlink()
                return False
        reach("download-before-rename")
        rename_durably(partial, self.path(sha256))
        return True

    def remove(self, sha256: str) -> None:
        """Forget a blob that is not needed again."""
        self.path(sha256).unlink(missing_ok=True)

    def keep_only(self, names: Set[str]) -> None:
        """Remove every blob and every unfinished download that is not of one of these hashes."""
        for path in self.folder.glob("??/*"):
            if path.name.removesuffix(PARTIAL_SUFFIX) not in names:
                path.unlink(missing_ok=True)

    def link_into(self, folder: Path, reference: BlobReference) -> Path:
        """Put the blob under its family path in `folder`: a hard link where the file system can, else a copy.

        Raises:
            QuadloomError: the cache does not hold it, or the disk does not take the link.
        """
        source, target = self.path(reference.sha256), folder / reference.path
        if not source.is_file():
            raise QuadloomError(
                f"the cache {self.folder} lacks {reference.path} ({reference.sha256[:12]}...)",
                remedy="let the device fetch it again; do not remove files from the cache while a device runs",
            )
        # Renaming one hard link onto another of the same file does nothing, and would leave the temporary name behind.
        if target.exists() and target.samefile(source):
            return target
        make_folder(target.parent)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        with using(temporary):
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        return target
