"""Opens the database by URL: SQLite by default, any other by its SQLAlchemy driver."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from quadloom_runtime.errors import QuadloomError
from quadloom_server.store.failures import DamagedDatabaseError, name_the_file
from quadloom_server.store.tables import Base

SQLITE_SETTINGS = (
    "PRAGMA journal_mode = WAL",  # readers (the status page) never wait for a writer
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 10000",
)
# A commit is on the disk when it returns, so that an accepted update survives a power cut, or it is with the operating
# system, which survives a killed process and costs no wait for the disk.
DURABLE = {"sqlite": "PRAGMA synchronous = FULL", "postgresql": "SET synchronous_commit TO on"}
QUICK = {"sqlite": "PRAGMA synchronous = NORMAL", "postgresql": "SET synchronous_commit TO off"}


def open_database(url: str, *, durable: bool = True) -> sessionmaker[Session]:
    """Connect, create the tables that are missing, and give the factory of sessions.

    Args:
        durable: whether commits must survive a power cut, or only a killed process.

    Raises:
        QuadloomError: the URL is wrong, its driver is missing, or the database cannot be used.
    """
    try:
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise QuadloomError(
            f"the database URL {url!r} cannot be used: {error}",
            remedy="give a SQLAlchemy URL such as sqlite:////path/to/server.db, and install its driver",
        ) from None
    dialect = engine.dialect.name
    settings = [*(SQLITE_SETTINGS if dialect == "sqlite" else ()), (DURABLE if durable else QUICK).get(dialect)]
    event.listen(engine, "connect", partial(_configure, [each for each in settings if each]))
    event.listen(engine, "handle_error", name_the_file)
    try:
        Base.metadata.create_all(engine)
        if engine.dialect.name == "sqlite":
            _check_pages(engine)
    except SQLAlchemyError as error:
        raise QuadloomError(
            f"the database at {engine.url!r} cannot be opened: {getattr(error, 'orig', error)}",
            remedy="check that it exists and is writable",
        ) from None
    return sessionmaker(engine)


def _check_pages(engine: Engine) -> None:
    with engine.connect() as connection:
        problem = connection.scalar(text("PRAGMA quick_check(1)"))
    if problem != "ok":
        raise DamagedDatabaseError(engine.url.database, str(problem))


def _configure(settings: Sequence[str], connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for setting in settings:
        cursor.execute(setting)
    cursor.close()
    connection.commit()  # PostgreSQL takes a setting back with its transaction
