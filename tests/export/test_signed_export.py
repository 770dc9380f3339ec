"""`quadloom export --signing-key`: what is complete is signed, what changes is signed anew."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quadloom_runtime.cli import main
from quadloom_runtime.family_signature import read_signature, verify_manifest
from quadloom_runtime.keys import create_private_key

OPTIONS = ["--rank", "2", "--alpha", "4", "--batch-size", "2", "--sequence-length", "8"]


@pytest.fixture(scope="module")
def source(make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder("bert", layers=1)


def test_a_signature_stays_with_an_unchanged_family_goes_with_a_changed_one_and_is_renewed(
    source: Path, tmp_path: Path
) -> None:
    out, key = tmp_path / "family", create_private_key(tmp_path / "key")
    words = ["export", str(source), "--out", str(out), *OPTIONS]
    sign = ["--signing-key", str(tmp_path / "key")]

    def vouched() -> None:
        verify_manifest((out / "family.json").read_bytes(), read_signature(out), key.public_key(), source="it")

    assert main([*words, "--depths", "0", *sign]) == 0
    vouched()
    assert main([*words, "--depths", "0"]) == 0  # nothing to do, and no key at hand
    vouched()
    assert main([*words, "--depths", "0,1", "--quantized", "0"]) == 0
    assert read_signature(out) is None
    assert main([*words, "--depths", "0,1", "--quantized", "0", *sign]) == 0
    vouched()


def test_a_key_that_cannot_be_read_ends_the_export_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "no-such-model", "--out", str(tmp_path / "family"), "--signing-key", str(tmp_path / "absent")]
    assert main(words) == 1
    assert f"the key file {tmp_path / 'absent'} cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "family").exists()
