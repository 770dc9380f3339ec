"""What SQLite says when its file is damaged or its disk fails, as errors that name the file and the remedy."""

import errno
import sqlite3
from pathlib import Path

from sqlalchemy.engine import ExceptionContext

from quadloom_runtime.errors import QuadloomError, StorageError

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
DISK_FAILURES = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
}
PRIMARY_CODE = 0xFF


class DamagedDatabaseError(QuadloomError):
    """The database's file is no longer what SQLite wrote. No later request can succeed."""

    def __init__(self, file: str | None, detail: str) -> None:
        super().__init__(
            f"the database {file} is damaged: {detail}",
            remedy="restore the state folder from a backup, or give --state a new one; the adapters in it are intact "
            "files and may be used",
        )


def name_the_file(context: ExceptionContext) -> None:
    """Listens to an engine's ``handle_error``; what it does not know goes on as it is.

    Raises:
        DamagedDatabaseError: the file is damaged.
        StorageError: the disk is full, read-only or broken.
    """
    failure = context.original_exception
    if not isinstance(failure, sqlite3.Error) or context.engine is None:
        return
    file = context.engine.url.database
    code = getattr(failure, "sqlite_errorcode", 0) & PRIMARY_CODE
    if code in DAMAGED:
        raise DamagedDatabaseError(file, str(failure)) from failure
    if code in DISK_FAILURES:
        raise StorageError(Path(file or ""), OSError(DISK_FAILURES[code], str(failure))) from failure
