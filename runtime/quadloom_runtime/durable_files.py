"""Files that are whole or absent, and still there after a power cut."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from quadloom_runtime.crash_points import CrashPoint, reach
from quadloom_runtime.errors import StorageError

UNFINISHED_SUFFIX: Final = ".part"


def write_atomically(path: Path, content: bytes, *more: bytes, half_written: CrashPoint | None = None) -> None:
    """Write `content` so that `path` holds either the old or the new content, never a part, and keeps it.

    Args:
        more: goes behind `content`, without a copy of both together in memory.
        half_written: what tests call the moment at which half of the content is in the temporary file.

    Raises:
        StorageError: the disk does not take it.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{UNFINISHED_SUFFIX}")
    try:
        with using(path), temporary.open("wb") as file:
            middle = len(content) // 2
            file.write(memoryview(content)[:middle])
            if half_written is not None:
                file.flush()
                reach(half_written)
            file.write(memoryview(content)[middle:])
            file.writelines(more)
            file.flush()
            os.fsync(file.fileno())
        rename_durably(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rename_durably(source: Path, target: Path) -> None:
    """Give a file, whose content is on the disk already, its final name for good.

    Raises:
        StorageError: the disk does not do it.
    """
    with using(target):
        source.replace(target)
        sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk, whoever wrote it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they survive a power cut; those that exist are left alone.

    Raises:
        StorageError: there is a file in its place, or the disk does not take it.
    """
    with using(folder):
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for each in missing:
            sync_folder(each.parent)


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Name the file or folder in what the disk refuses.

    Raises:
        StorageError: instead of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(path, error) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a rename alone is only in memory until then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left below `folder`. Call it only while nobody else may write there."""
    for path in folder.rglob(f".*{UNFINISHED_SUFFIX}"):
        path.unlink(missing_ok=True)
