"""Deal the training data out to devices."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quadloom_runtime.data import Example
from quadloom_runtime.errors import QuadloomError


def split_iid(rows: int, shards: int, *, seed: int) -> list[list[int]]:
    """Shuffle, then deal evenly: row numbers per shard, sizes differing by one at most."""
    order = np.random.default_rng(seed).permutation(rows)
    return [sorted(int(row) for row in order[start::shards]) for start in range(shards)]


def split_dirichlet(labels: Sequence[int], shards: int, *, alpha: float, seed: int) -> list[list[int]]:
    """Deal each class out in proportions drawn from Dirichlet(alpha): the smaller alpha, the more skewed.

    Every row goes to one shard; a shard that would stay empty takes one row from the largest.
    (Hsu et al., arXiv 1909.06335.)
    """
    generator = np.random.default_rng(seed)
    found: list[list[int]] = [[] for _ in range(shards)]
    values = np.asarray(labels)
    for label in np.unique(values):
        rows = generator.permutation(np.flatnonzero(values == label))
        bounds = np.cumsum(generator.dirichlet(np.full(shards, alpha)))[:-1] * len(rows)
        for shard, part in zip(found, np.split(rows, bounds.astype(int)), strict=True):
            shard.extend(int(row) for row in part)
    for shard in found:
        if not shard:
            shard.append(max(found, key=len).pop())
    return [sorted(shard) for shard in found]


def write_shards(examples: Sequence[Example], shards: Sequence[Sequence[int]], folder: Path) -> list[Path]:
    """Write one JSONL file per shard.

    Raises:
        QuadloomError: fewer examples than shards.
    """
    if len(examples) < len(shards):
        raise QuadloomError(
            f"{len(examples)} training examples cannot be dealt to {len(shards)} devices",
            remedy="give more data or fewer devices",
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, rows in enumerate(shards, 1):
        path = folder / f"shard-{index:04d}.jsonl"
        lines = [json.dumps(_fields(examples[row])) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def _fields(example: Example) -> dict[str, str | int]:
    return {"text": example.text} | ({} if example.label is None else {"label": example.label})
