"""What every rival can do, and the batch that it does it on."""

from typing import Protocol

from quadloom_benchmarks.families import random_batch
from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.engines.engine import FloatArray, IntArray


class Rival(Protocol):
    """A training set-up with the family's model, adapter and random batch loaded, on one thread, dropout off."""

    def step(self) -> None:
        """Forward and backward, as its user would run them."""

    def gradients(self) -> dict[str, FloatArray]:
        """Gradients of the last step by PEFT's adapter keys."""


def batch_arrays(manifest: FamilyManifest, *, seed: int = 0) -> dict[str, IntArray]:
    """The batch that the members get, as arguments of a transformers model; token types are zeros by default."""
    batch = random_batch(manifest, seed=seed)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
