"""Files are whole or absent, also when the disk is full in the middle, and reach the disk together with their names."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from quadloom_runtime.durable_files import make_folder, remove_unfinished, write_atomically
from quadloom_runtime.errors import StorageError


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is brought to the disk, in order: ``file`` or the name of a folder."""
    seen: list[str] = []

    def record(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().name if is_folder else "file")

    monkeypatch.setattr(os, "fsync", record)
    return seen


def test_content_and_name_are_brought_to_the_disk(tmp_path: Path, synced: list[str]) -> None:
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert synced == ["file", tmp_path.name], "the content must be there before the name is"


def test_new_folders_are_brought_to_the_disk_too(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert sorted(synced) == sorted(["a", tmp_path.name])
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []


def test_a_disk_that_is_full_in_the_middle_leaves_the_old_content_and_no_half(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = f"""
import resource
from pathlib import Path
from quadloom_runtime.durable_files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
write_atomically(Path({str(path)!r}), bytes(100_000))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert f"StorageError: {path} cannot be used: File too large" in ended.stderr
    assert "remedy: free space there" in ended.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageError, match="taken"):
        write_atomically(tmp_path / "taken" / "file", b"")


def test_halves_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    keep = [tmp_path / "file", tmp_path / "deep" / "download.part"]
    for path in [*keep, tmp_path / ".file.12-34.part", tmp_path / "deep" / ".other.1-2.part"]:
        path.write_bytes(b"")
    remove_unfinished(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(keep)
