"""Random numbers that belong to a place in the simulation, so that a run continued on disk draws the same again."""

from typing import Literal
from zlib import crc32

import numpy as np

Purpose = Literal["validation", "start", "device", "availability", "selection", "duration", "order", "layers"]


def generator(seed: int, purpose: Purpose, *, round_index: int = 0, device: str = "") -> np.random.Generator:
    """The generator of one purpose, round and device: no other place shares its numbers, and no order of calls matters.

    Args:
        seed: of the run, 0 or more.
        device: name, empty for what concerns none.
    """
    return np.random.default_rng([seed, crc32(purpose.encode()), round_index, crc32(device.encode())])
