"""What the fleet has to beat: two baselines trained on all the text in one place, tested on the same held-out text."""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

for _name in ("torchao", "torch.utils._pytree"):  # transformers imports torchao where it is installed, and it complains
    logging.getLogger(_name).setLevel(logging.ERROR)

from transformers import AutoModel, AutoTokenizer  # noqa: E402

BATCH_SIZE = 64


def main() -> None:
    """Print both accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/examples/movie_reviews"))
    folder = parser.parse_args().folder
    train, evaluation = read(folder / "train.jsonl"), read(folder / "eval.jsonl")
    print(f"held-out sentences: {len(evaluation[0])}")
    print(f"TF-IDF + logistic regression, all text pooled:    {tfidf_accuracy(train, evaluation):.4f}")
    print(
        f"frozen model + logistic regression on its output: {frozen_accuracy(folder / 'model', train, evaluation):.4f}"
    )


def read(path: Path) -> tuple[list[str], list[int]]:
    """Texts and labels."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def tfidf_accuracy(train: tuple[list[str], list[int]], evaluation: tuple[list[str], list[int]]) -> float:
    """Words and word pairs, no pretrained knowledge."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=10, max_iter=1000).fit(vectorizer.fit_transform(train[0]), train[1])
    return float(classifier.score(vectorizer.transform(evaluation[0]), evaluation[1]))


def frozen_accuracy(model: Path, train: tuple[list[str], list[int]], evaluation: tuple[list[str], list[int]]) -> float:
    """The pretrained model as it is, with a head on the mean of its token vectors."""
    features = [embed(model, texts) for texts, _ in (train, evaluation)]
    classifier = LogisticRegression(C=10, max_iter=2000).fit(features[0], train[1])
    return float(classifier.score(features[1], evaluation[1]))


def embed(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean over the tokens of the last hidden state, ``(texts, hidden)``."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # like lengths together: little padding
    with torch.no_grad():
        for start in range(0, len(texts), BATCH_SIZE):
            rows = by_length[start : start + BATCH_SIZE]
            batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            found[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return found


if __name__ == "__main__":
    main()
