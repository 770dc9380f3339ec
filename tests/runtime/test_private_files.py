"""Keys and tokens in files: whole or absent, their owner's alone, never overwritten."""

import os
import stat
import threading
from pathlib import Path

import pytest

from quadloom_runtime.private_files import create_private_file


def test_the_file_is_readable_by_its_owner_only_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_private_file(tmp_path / "folder/key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "folder/key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "folder/key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["key"]


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        create_private_file(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_of_many_that_create_it_at_once_one_gets_its_way(tmp_path: Path) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        try:
            create_private_file(tmp_path / "key", bytes([number]) * 1000)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (winner,) = won
    assert (tmp_path / "key").read_bytes() == bytes([winner]) * 1000
