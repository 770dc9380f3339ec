"""The noun example's own code, on a made-up package: nothing is fetched."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "wordnet_nouns"
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  "
ENTITY = "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived  "
SHRIKE = '01595168 05 n 01 bush_shrike 0 001 @ 01594787 n 0000 | a shrike | of the bush; "a bush shrike"  '
EPOCH = "15248564 28 n 02 epoch 0 era 0 002 @ 15113229 n 0000 | a period marked by distinctive character  "


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wordnet_nouns_prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source_distribution(prepare: ModuleType, path: Path, *halves: list[str]) -> Path:
    with tarfile.open(path, mode="w:gz") as archive:
        for name, lines in zip(prepare.FILES, halves, strict=True):
            content = "".join(f"{line}\n" for line in lines).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_glosses_of_both_halves_come_with_the_place_of_their_file_among_those_of_nouns(
    prepare: ModuleType, tmp_path: Path
) -> None:
    source = source_distribution(prepare, tmp_path / "nouns.tar.gz", [LICENCE, ENTITY], [SHRIKE, EPOCH, EPOCH])
    assert prepare.read_glosses(source) == [
        ("that which is perceived", 0),
        ('a shrike | of the bush; "a bush shrike"', 2),
        ("a period marked by distinctive character", 25),
    ]


def test_so_many_are_drawn_as_were_asked_for_none_twice_and_the_same_in_any_order(prepare: ModuleType) -> None:
    glosses = [(f"gloss {index}", index % 26) for index in range(500)]
    train, held_out = prepare.split(glosses, train=300, held_out=100)
    assert (len(set(train)), len(set(held_out)), len({*train, *held_out})) == (300, 100, 400)
    assert prepare.split(glosses[::-1], train=300, held_out=100) == (train, held_out)
    assert len({label for _, label in train}) == 26
    # Whoever wants less text to train on keeps the held-out text.
    assert prepare.split(glosses, train=200, held_out=100) == (train[:200], held_out)


@pytest.mark.parametrize(("train", "held_out"), [(0, 5), (5, 0), (8, 3)])
def test_more_than_there_is_cannot_be_asked_for(prepare: ModuleType, train: int, held_out: int) -> None:
    with pytest.raises(SystemExit, match=f"--train {train} and --held-out {held_out}: there are 10"):
        prepare.split([(f"gloss {index}", 0) for index in range(10)], train=train, held_out=held_out)


def test_it_writes_both_files_once(
    prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = source_distribution(prepare, tmp_path / "nouns.tar.gz", [ENTITY, SHRIKE], [EPOCH])
    monkeypatch.setattr(prepare, "download", lambda *_arguments, **_options: source)
    folder = tmp_path / "prepared"
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(folder), "--train", "2", "--held-out", "1"])
    prepare.main()
    assert "2 training glosses, 1 held-out glosses" in capsys.readouterr().out
    rows = [json.loads(line) for name in ("train", "eval") for line in (folder / f"{name}.jsonl").open()]
    assert sorted(row["label"] for row in rows) == [0, 2, 25]
    monkeypatch.setattr(prepare, "download", None)
    prepare.main()
