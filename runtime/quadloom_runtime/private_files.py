"""Files that only their owner can read: keys and tokens."""

import os
import threading
from pathlib import Path
from typing import Final

from quadloom_runtime.durable_files import UNFINISHED_SUFFIX, make_folder, sync_folder

OWNER_ONLY: Final = 0o600


def create_private_file(path: Path, content: bytes) -> None:
    """Write a new file, whole or not at all, and never readable by others, not even for a moment.

    Raises:
        FileExistsError: there is one already; it is left as it is.
        OSError: it cannot be written.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{UNFINISHED_SUFFIX}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces: of two processes that create the file one gets its way.
        os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
