import stat
from pathlib import Path

import pytest

from quadloom_runtime.cli import main
from quadloom_runtime.keys import load_private_key, load_public_key, public_key_text


def test_both_keys_are_written_and_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", str(tmp_path / "family.key")]) == 0
    private = load_private_key(tmp_path / "family.key")
    assert load_public_key(tmp_path / "family.key.pub") == private.public_key()
    assert stat.S_IMODE((tmp_path / "family.key").stat().st_mode) == 0o600
    shown = capsys.readouterr().out
    assert public_key_text(private.public_key()) in shown
    assert "BEGIN" not in shown


@pytest.mark.parametrize("there", ["family.key", "family.key.pub"])
def test_neither_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    (tmp_path / there).write_text("mine")
    assert main(["keys", str(tmp_path / "family.key")]) == 1
    assert f"there is a file at {tmp_path / there}" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["keys", str(tmp_path / "file" / "family.key")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
