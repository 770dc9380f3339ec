"""A fresh LoRA adapter, drawn as PEFT draws it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.engines.engine import FloatArray


def random_start(
    adapter: Mapping[str, FloatArray], table: Sequence[ParameterSpec], random: np.random.Generator
) -> dict[str, FloatArray]:
    """Draw LoRA A as PEFT does, Kaiming uniform with a = sqrt(5), which is uniform within 1 / sqrt(columns); B is zero.

    The head stays as the adapter holds it: it may be pretrained. With B zero all starts compute the same.
    """
    start = dict(adapter)
    for row in table:
        if ".lora_A." in row.name:
            bound = 1 / math.sqrt(row.shape[1])
            start[row.name] = random.uniform(-bound, bound, row.shape).astype(np.float32)
        elif ".lora_B." in row.name:
            start[row.name] = np.zeros(row.shape, np.float32)
    return start
