"""Gradient error of a member: its own gradients against PyTorch eager on a batch of real sentences."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from quadloom_export.model import LoraModel
from quadloom_runtime.contract.manifest import GradientError, ParameterSpec
from quadloom_runtime.engines.engine import IGNORED_LABEL, Batch, FloatArray

SENTENCES = (
    "The film is a quiet triumph, patient and generous with its characters.",
    "I wanted to like it, but the second half falls apart completely.",
    "Our train left an hour late and nobody told us why.",
    "She plays the part with such warmth that you forgive the thin script.",
    "The battery lasts two days; the screen, sadly, does not.",
    "A clumsy, overlong comedy that mistakes noise for wit.",
    "Researchers found that small birds remember thousands of hiding places.",
    "It rained all morning, then the valley filled with light.",
    "This is exactly the book I needed ten years ago.",
    "The soup was cold, the waiter was rude, and the bill was wrong.",
    "Prices rose again in March, led by energy and food.",
    "He writes about grief without a single false note.",
    "What a waste of a wonderful cast.",
    "The new bridge cut our journey to work in half.",
    "Nothing about the ending makes sense, and yet I could not look away.",
    "Setup took five minutes and everything worked the first time.",
)
"""Written for this project: ordinary English with both polarities, so that activations look like those of real use."""
ADAPTER_NOISE = 0.02
"""A fresh adapter has B = 0, which zeroes the gradient of A; this much noise makes every tensor count."""


@dataclass(frozen=True)
class Calibration:
    """A batch, the parameters it runs at, and the reference gradients there."""

    batch: Batch
    parameters: dict[str, FloatArray]
    gradients: dict[str, FloatArray]


def calibrate(
    model: LoraModel, tokenizer: Tokenizer, *, batch_size: int, num_labels: int | None, seed: int = 0
) -> Calibration:
    """Run PyTorch eager once, forward and backward at full depth: its gradients serve every member.

    Args:
        tokenizer: truncates and pads to the family's sequence length.
        num_labels: classes of a classifier, None for a language model.
    """
    # A language model learns from every token: its texts are of different lengths, the fourth of up to four sentences.
    sentences = [1 if num_labels is not None else 1 + index % 4 for index in range(batch_size)]
    texts = [
        " ".join(SENTENCES[(index + further) % len(SENTENCES)] for further in range(count))
        for index, count in enumerate(sentences)
    ]
    encoded = tokenizer.encode_batch(texts)
    ids = np.asarray([each.ids for each in encoded], dtype=np.int64)
    mask = np.asarray([each.attention_mask for each in encoded], dtype=np.int64)
    classes = np.arange(batch_size, dtype=np.int64)
    labels = np.where(mask == 1, ids, IGNORED_LABEL) if num_labels is None else classes % num_labels
    batch = Batch(ids, mask, np.zeros_like(ids), labels)
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: value + ADAPTER_NOISE * torch.randn(value.shape, generator=generator)
        for name, value in model.trainable.items()
    }
    gradients = eager_gradients(model, parameters, batch)
    return Calibration(batch, {name: value.numpy() for name, value in parameters.items()}, gradients)


def eager_gradients(model: LoraModel, parameters: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, FloatArray]:
    """Gradients of the mean cross entropy by PyTorch eager with PEFT, for every row of the parameter table."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
    values = {model.module_names[name]: leaf for name, leaf in leaves.items()} | model.frozen
    inputs = {"input_ids": torch.from_numpy(batch.input_ids), "attention_mask": torch.from_numpy(batch.attention_mask)}
    output = torch.func.functional_call(model.module, values, args=(), kwargs=inputs, tie_weights=False)
    logits, labels = output.logits, torch.from_numpy(batch.labels)
    if model.task == "causal-lm":  # what follows the last token is not known
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {name: gradient.numpy() for name, gradient in zip(leaves, found, strict=True)}


def rounding_error(original: LoraModel, calibration: Calibration) -> GradientError:
    """What rounding the weights does to the gradient.

    Args:
        original: the model before its weights were rounded.
        calibration: of the model afterwards.
    """
    parameters = {name: torch.from_numpy(value) for name, value in calibration.parameters.items()}
    reference = eager_gradients(original, parameters, calibration.batch)
    return gradient_error(reference, calibration.gradients, original.parameters)


def gradient_error(
    reference: Mapping[str, NDArray[np.float32]],
    measured: Mapping[str, NDArray[np.float32]],
    trained: tuple[ParameterSpec, ...],
) -> GradientError:
    """Relative L2 over all LoRA tensors and the worst cosine of one; the head apart, since it would dominate."""
    names = [row.name for row in trained if row.layer != "head"]
    if not names:
        return GradientError(relative_l2=0.0, worst_cosine=1.0, worst_tensor=None)
    difference = sum(float(np.sum((measured[name] - reference[name]).astype(np.float64) ** 2)) for name in names)
    norm = sum(float(np.sum(reference[name].astype(np.float64) ** 2)) for name in names)
    cosines = {name: _cosine(reference[name], measured[name]) for name in names}
    worst = min(cosines, key=cosines.__getitem__)
    return GradientError(relative_l2=float(np.sqrt(difference / norm)), worst_cosine=cosines[worst], worst_tensor=worst)


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return 1.0 if norms == 0.0 else float(np.clip(x @ y / norms, -1.0, 1.0))
