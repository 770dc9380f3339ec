"""The state folder belongs to one family and one server at a time, and keeps what it was given."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from quadloom_runtime.errors import QuadloomError
from quadloom_server.family import ServedFamily, open_family
from quadloom_server.state import open_state
from quadloom_server.store.blobs import BlobFolder
from quadloom_server.store.database import open_database
from quadloom_server.store.queries import the_task
from quadloom_server.store.tables import SCHEMA_VERSION


def test_a_state_of_another_family_is_refused(
    tmp_path: Path, family: ServedFamily, write_family: Callable[..., Path]
) -> None:
    open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=1).close()
    other = open_family(write_family(tmp_path / "other", seed=1))
    with pytest.raises(QuadloomError, match="belongs to another family"):
        open_state(tmp_path / "state", other, aggregation="fedavg", database_url=None, now_s=2)
    open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=3).close()


def test_a_second_server_on_the_same_folder_is_refused_until_the_first_is_gone(
    tmp_path: Path, family: ServedFamily
) -> None:
    first = open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=1)
    with pytest.raises(QuadloomError, match="another server uses"):
        open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=2)
    first.close()
    second = open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=3)
    assert second.task_id == first.task_id
    second.close()


def test_a_state_of_an_earlier_release_is_refused_with_its_version(tmp_path: Path, family: ServedFamily) -> None:
    state = open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=1)
    with state.sessions.begin() as session:
        the_task(session).schema_version = 3
        session.flush()
        session.execute(text("ALTER TABLE task DROP COLUMN aggregation"))  # as that release had it
    state.close()
    with pytest.raises(QuadloomError, match=f"has schema version 3, this program uses {SCHEMA_VERSION}"):
        open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=2)


def test_a_file_in_place_of_the_folder_is_refused_by_name(tmp_path: Path, family: ServedFamily) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(QuadloomError, match=r"state folder .*/state cannot be written"):
        open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=1)


def test_a_damaged_database_is_refused_by_name(tmp_path: Path, family: ServedFamily) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/server.db").write_bytes(b"no database at all " * 100)
    with pytest.raises(QuadloomError, match=r"server\.db is damaged: file is not a database"):
        open_state(tmp_path / "state", family, aggregation="fedavg", database_url=None, now_s=1)


@pytest.mark.parametrize("url", ["nonsense", "nodialect://host/name"])
def test_a_wrong_database_url_is_refused_by_value(url: str) -> None:
    with pytest.raises(QuadloomError, match=url):
        open_database(url)


def test_the_database_may_live_elsewhere(tmp_path: Path, family: ServedFamily) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    state = open_state(tmp_path / "state", family, aggregation="fedavg", database_url=url, now_s=1)
    state.close()
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (tmp_path / "state/server.db").exists()


def test_a_blob_is_found_under_its_hash_and_an_altered_one_is_refused(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    name = blobs.put(b"content")
    assert name == hashlib.sha256(b"content").hexdigest()
    assert blobs.put(b"content") == name
    assert blobs.checked_path(name).read_bytes() == b"content"
    blobs.path(name).write_bytes(b"c0ntent")
    with pytest.raises(QuadloomError, match="does not have the content that was stored"):
        blobs.checked_path(name)
    blobs.path(name).unlink()
    with pytest.raises(QuadloomError, match="is missing"):
        blobs.checked_path(name)
