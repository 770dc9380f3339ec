"""Dealing the training data out to devices."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.data import Example, load_examples
from quadloom_runtime.emulation.shards import split_dirichlet, split_iid, write_shards
from quadloom_runtime.errors import QuadloomError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=200)
SHARDS = st.integers(1, 12)
SEEDS = st.integers(0, 1000)
ALPHAS = st.floats(0.01, 100)


@given(LABELS, SHARDS, SEEDS)
def test_an_iid_split_gives_every_example_once_in_shards_of_equal_size(
    labels: list[int], count: int, seed: int
) -> None:
    shards = split_iid(len(labels), count, seed=seed)
    assert sorted(row for shard in shards for row in shard) == list(range(len(labels)))
    sizes = [len(shard) for shard in shards]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@given(LABELS, SHARDS, ALPHAS, SEEDS)
def test_a_dirichlet_split_gives_every_example_once(labels: list[int], count: int, alpha: float, seed: int) -> None:
    shards = split_dirichlet(labels, count, alpha=alpha, seed=seed)
    assert len(shards) == count
    assert sorted(row for shard in shards for row in shard) == list(range(len(labels)))


@given(SHARDS, ALPHAS, SEEDS, st.integers(0, 50))
def test_no_device_of_a_dirichlet_split_stays_without_data(count: int, alpha: float, seed: int, spare: int) -> None:
    labels = [row % 2 for row in range(count + spare)]
    assert all(split_dirichlet(labels, count, alpha=alpha, seed=seed))


@given(LABELS, SHARDS, SEEDS)
def test_the_same_seed_deals_the_same_shards(labels: list[int], count: int, seed: int) -> None:
    assert split_iid(len(labels), count, seed=seed) == split_iid(len(labels), count, seed=seed)
    dealt = [split_dirichlet(labels, count, alpha=0.5, seed=seed) for _ in range(2)]
    assert dealt[0] == dealt[1]


def test_another_seed_deals_other_shards() -> None:
    labels = [row % 2 for row in range(100)]
    assert split_iid(len(labels), 4, seed=0) != split_iid(len(labels), 4, seed=1)
    assert split_dirichlet(labels, 4, alpha=1.0, seed=0) != split_dirichlet(labels, 4, alpha=1.0, seed=1)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_the_shares_of_a_class_vary_as_the_dirichlet_distribution_says(alpha: float) -> None:
    """A share of a symmetric Dirichlet over k devices has mean 1/k and variance (k - 1) / (k^2 (k alpha + 1))."""
    classes, rows_per_class, devices = 2000, 500, 5
    labels = np.repeat(np.arange(classes), rows_per_class)
    shards = split_dirichlet(labels.tolist(), devices, alpha=alpha, seed=3)
    shares = np.stack([np.bincount(labels[shard], minlength=classes) for shard in shards]) / rows_per_class
    expected = (devices - 1) / (devices**2 * (devices * alpha + 1))
    assert shares.mean(axis=1) == pytest.approx(np.full(devices, 1 / devices), abs=5 * np.sqrt(expected / classes))
    assert shares.var() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("text", ["two\nlines", "\u2028 separator", 'quote " and back\\slash', "żółw 🐢"])
def test_shards_on_disk_hold_the_dealt_examples_unchanged(tmp_path: Path, text: str) -> None:
    examples = [Example(f"{row} {text}", row % 3) for row in range(7)]
    shards = split_iid(len(examples), 3, seed=1)
    paths = write_shards(examples, shards, tmp_path / "data")
    found = [load_examples(path, num_labels=3) for path in paths]
    assert found == [[examples[row] for row in shard] for shard in shards]


@pytest.mark.parametrize("split", ["iid", "dirichlet"])
def test_fewer_examples_than_devices_are_refused_with_both_numbers(tmp_path: Path, split: str) -> None:
    examples = [Example("a", 0), Example("b", 1)]
    labels = [0, 1]
    shards = split_iid(len(labels), 3, seed=0) if split == "iid" else split_dirichlet(labels, 3, alpha=1.0, seed=0)
    with pytest.raises(QuadloomError, match=r"\b2 training examples.*\b3 devices"):
        write_shards(examples, shards, tmp_path)
