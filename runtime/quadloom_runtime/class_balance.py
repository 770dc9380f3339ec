"""An order of the local data in which every class comes as often as every other.

A device that has mostly one class pulls the model towards it, and taking the label shares out of the loss does not stop
that: the optimizer starts afresh each round, and the first steps of AdamW go by the sign of a gradient rather than by
its size. Of a batch with little else than one class the sign is that class's nearly every time, while the few batches
that say otherwise, with larger gradients, count no more. Batches with all classes alike have no such side.
"""

import math

import numpy as np

from quadloom_runtime.data import epoch_random
from quadloom_runtime.engines.engine import IGNORED_LABEL, IntArray
from quadloom_runtime.errors import QuadloomError


def balanced_order(labels: IntArray, *, seed: int, epoch: int) -> IntArray:
    """Rows of one epoch: of any ``n`` rows that begin at a multiple of ``n``, one of each of the ``n`` classes.

    Of a class with few examples these come again and again, each as often as the others; of one with many, not all.

    Args:
        labels: class index per row, (examples,) int64; rows without a label are left out.

    Returns:
        As many rows as have a label.

    Raises:
        QuadloomError: the data has no classes.
    """
    if labels.ndim != 1:
        raise QuadloomError(
            "class_balance is set, but the texts of a language model have no class", remedy="train without it"
        )
    labelled = labels[labels != IGNORED_LABEL]
    classes = np.unique(labelled)
    random = epoch_random(seed=seed, epoch=epoch)
    if not len(classes):
        return np.empty(0, np.int64)
    turns = math.ceil(len(labelled) / len(classes))
    columns = [_again_and_again(np.flatnonzero(labels == each), turns, random) for each in classes]
    order: IntArray = random.permuted(np.stack(columns, axis=1), axis=1).ravel()[: len(labelled)]
    return order


def _again_and_again(rows: IntArray, count: int, random: np.random.Generator) -> IntArray:
    """All rows in some order, then all in another, until there are `count`."""
    passes = [random.permutation(rows) for _ in range(math.ceil(count / len(rows)))]
    return np.concatenate(passes)[:count]
