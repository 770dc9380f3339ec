"""The state folder and database of one task, opened by one server at a time."""

import fcntl
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from quadloom_runtime.durable_files import remove_unfinished
from quadloom_runtime.errors import QuadloomError
from quadloom_server.adapters import AdapterFolders
from quadloom_server.family import ServedFamily
from quadloom_server.store.blobs import BlobFolder
from quadloom_server.store.database import open_database
from quadloom_server.store.tables import SCHEMA_VERSION, Task
from quadloom_server.store.uploads import UploadFolder
from quadloom_server.trust.admin_token import AdminToken, open_admin_token

DATABASE_NAME = "server.db"


@dataclass(frozen=True)
class ServerState:
    """Everything that outlives the process.

    Attributes:
        task_id: identifies the task to devices.
        sessions: factory of database sessions whose commits survive a power cut.
        quick_sessions: factory of sessions whose commits survive a killed process and do not wait for the disk; for
            what every request writes.
        blobs: updates and manifests, by content.
        uploads: updates that are still coming in, on the file system of `blobs`.
        adapters: one PEFT folder per round.
        admin_token: what the owner of the fleet shows.
        writing: held by whoever writes to the database. SQLite lets one writer in and has the others sleep and ask
            again, ever longer; waiting here is shorter.
        lock: held open as long as the server runs; the system releases it however the process ends.
    """

    task_id: str
    sessions: sessionmaker[Session]
    quick_sessions: sessionmaker[Session]
    blobs: BlobFolder
    uploads: UploadFolder
    adapters: AdapterFolders
    admin_token: AdminToken
    lock: IO[str]
    writing: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """Close the database and let another server have the folder."""
        for sessions in (self.quick_sessions, self.sessions):
            sessions.kw["bind"].dispose()
        self.lock.close()


def open_state(
    folder: Path, family: ServedFamily, *, aggregation: str, database_url: str | None, now_s: float
) -> ServerState:
    """Open the state of a task, or begin a new one.

    Args:
        aggregation: how its updates become adapters.

    Raises:
        QuadloomError: the folder cannot be written, another server uses it, or it belongs to another family or another
            aggregation.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise QuadloomError(
            f"the state folder {folder} cannot be written: {error.strerror}", remedy="give a folder that can be written"
        ) from None
    try:
        url = database_url or f"sqlite:///{(folder / DATABASE_NAME).absolute()}"
        sessions, quick_sessions = open_database(url), open_database(url, durable=False)
        with sessions.begin() as session:
            task_id = _task_id(session, family, aggregation, folder=folder, now_s=now_s)
        remove_unfinished(folder)
        admin_token = open_admin_token(folder)
        adapters = AdapterFolders(folder, family, sessions)
        adapters.write_initial()
        blobs = BlobFolder(folder / "blobs")
        blobs.put(family.content)
        uploads = UploadFolder(folder / "uploads")
        uploads.clear()
    except BaseException:
        lock.close()
        raise
    return ServerState(task_id, sessions, quick_sessions, blobs, uploads, adapters, admin_token, lock)


def _lock(folder: Path) -> IO[str]:
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise QuadloomError(
            f"another server uses the state folder {folder}", remedy="stop it, or give --state another folder"
        ) from None
    return lock


def _task_id(session: Session, family: ServedFamily, aggregation: str, *, folder: Path, now_s: float) -> str:
    version = session.scalar(select(Task.schema_version))
    if version not in (None, SCHEMA_VERSION):  # asked for alone: other columns may be missing
        raise QuadloomError(
            f"the state in {folder} has schema version {version}, this program uses {SCHEMA_VERSION}",
            remedy="use the Quadloom release that wrote it, or give --state a new folder",
        )
    task = session.scalar(select(Task))
    if task is None:
        task = Task(
            id=str(uuid.uuid4()),
            schema_version=SCHEMA_VERSION,
            family_identity=family.identity,
            aggregation=aggregation,
            created_at_s=now_s,
        )
        session.add(task)
    if task.family_identity != family.identity:
        raise QuadloomError(
            f"the state in {folder} belongs to another family than the one at {family.folder}",
            remedy="give --state a new folder, or --family the family that this state was begun with",
        )
    if task.aggregation != aggregation:
        raise QuadloomError(
            f"the state in {folder} was begun with the aggregation {task.aggregation}, not {aggregation}",
            remedy=f"give --aggregation {task.aggregation}, or --state a new folder",
        )
    return task.id
