"""Orders of data in which every class comes as often as every other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.class_balance import balanced_order
from quadloom_runtime.engines.engine import IGNORED_LABEL
from quadloom_runtime.errors import QuadloomError

LABELS = st.lists(st.sampled_from([0, 1, 4, IGNORED_LABEL]), min_size=1, max_size=40).map(np.asarray)


@given(labels=LABELS, epoch=st.integers(0, 3))
def test_every_stretch_of_as_many_rows_as_classes_has_one_of_each(labels, epoch) -> None:
    order = balanced_order(labels, seed=7, epoch=epoch)
    classes = sorted(set(labels.tolist()) - {IGNORED_LABEL})
    assert len(order) == np.count_nonzero(labels != IGNORED_LABEL)
    for start in range(0, len(order) - len(classes) + 1, max(1, len(classes))):
        assert sorted(labels[order[start : start + len(classes)]].tolist()) == classes


@given(labels=LABELS)
def test_rows_of_a_class_take_turns(labels) -> None:
    counts = np.bincount(balanced_order(labels, seed=1, epoch=0), minlength=len(labels))
    for each in set(labels.tolist()) - {IGNORED_LABEL}:
        of_class = counts[labels == each]
        assert of_class.max() - of_class.min() <= 1


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    labels = np.arange(40) % 2
    orders = {tuple(balanced_order(labels, seed=seed, epoch=epoch)) for seed in (-1, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    np.testing.assert_array_equal(balanced_order(labels, seed=1, epoch=1), balanced_order(labels, seed=1, epoch=1))


def test_the_texts_of_a_language_model_have_no_classes_to_balance() -> None:
    with pytest.raises(QuadloomError, match="class_balance"):
        balanced_order(np.zeros((3, 8), np.int64), seed=0, epoch=0)
