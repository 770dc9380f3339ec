"""What Python's libraries make of the same numbers and texts, for the tests in javascript/."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from tests.browser.tiny_family import HARD_TEXTS, SEQUENCE_LENGTH, tiny_tokenizer

from quadloom_runtime.class_balance import balanced_order
from quadloom_runtime.data import epoch_order

SEEDS = (0, 1, 7, 2**32 - 1, 2**32, 2**40 + 5)


def write_vectors(folder: Path) -> Path:
    """Write ``vectors.json`` and ``tensors.safetensors`` into `folder`; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vectors.json"
    path.write_text(json.dumps({"orders": _orders(), "balanced": _balanced(), "adamw": _adamw(), "tokens": _tokens()}))
    (folder / "tensors.safetensors").write_bytes(
        save({"b": np.asarray([[1.5, -2], [0, 3]], np.float32), "é": np.asarray([7], np.float32)}, {"report": '"ü"'})
    )
    return path


def _orders() -> list[dict[str, Any]]:
    cases = [(examples, seed, epoch) for examples in (1, 2, 33, 1000) for seed in SEEDS for epoch in (0, 3)]
    return [
        {
            "examples": examples,
            "seed": seed,
            "epoch": epoch,
            "order": epoch_order(examples, seed=seed, epoch=epoch).tolist(),
        }
        for examples, seed, epoch in cases
    ]


def _balanced() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    found = []
    for classes in (1, 2, 3, 7):
        labels = random.integers(classes, size=50) ** 2  # of some classes more, and class numbers with gaps
        order = balanced_order(labels, seed=classes, epoch=1)
        found.append({"labels": labels.tolist(), "seed": classes, "epoch": 1, "order": order.tolist()})
    return found


def _adamw() -> dict[str, Any]:
    """torch's own AdamW over ten steps, with its own clipping."""
    random = np.random.default_rng(0)
    value = torch.nn.Parameter(torch.from_numpy(random.standard_normal(20).astype(np.float32)))
    optimizer = torch.optim.AdamW([value], lr=0.01, weight_decay=0.1)
    start, gradients, values = value.tolist(), [], []
    for _ in range(10):
        value.grad = torch.from_numpy(random.standard_normal(20).astype(np.float32))
        gradients.append(value.grad.tolist())
        torch.nn.utils.clip_grad_norm_([value], 3.0)
        optimizer.step()
        values.append(value.tolist())
    return {"start": start, "gradients": gradients, "values": values, "rate": 0.01, "decay": 0.1, "clip": 3.0}


def _tokens() -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(SEQUENCE_LENGTH)
    tokenizer.enable_padding(length=SEQUENCE_LENGTH)
    encoded = tokenizer.encode_batch(list(HARD_TEXTS))
    rows = [
        {"input_ids": each.ids, "attention_mask": each.attention_mask, "token_type_ids": each.type_ids}
        for each in encoded
    ]
    return {"settings": json.loads(tokenizer.to_str()), "texts": HARD_TEXTS, "length": SEQUENCE_LENGTH, "rows": rows}
