"""The one weights file that all graphs of a family share."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = 4096
"""Tensors start on page boundaries, so that each can be mapped on its own."""


@dataclass(frozen=True)
class WeightEntry:
    """Where one tensor lies."""

    offset: int
    size_bytes: int


def lay_out_weights(tensors: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, WeightEntry], int]:
    """Place every tensor; equal contents share one place. Returns entries by name, and the file's size in bytes."""
    entries: dict[str, WeightEntry] = {}
    placed: dict[bytes, WeightEntry] = {}
    end = 0
    for name, tensor in tensors.items():
        content = np.ascontiguousarray(tensor)
        digest = hashlib.sha256(content.tobytes()).digest()
        if digest not in placed:
            offset = -(-end // PAGE_BYTES) * PAGE_BYTES
            placed[digest] = WeightEntry(offset, content.nbytes)
            end = offset + content.nbytes
        entries[name] = placed[digest]
    return entries, end


def write_weights(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, WeightEntry]:
    """Write the file in one go, under its final name only when complete."""
    entries, size = lay_out_weights(tensors)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.truncate(size)
        for name, entry in entries.items():
            file.seek(entry.offset)
            file.write(np.ascontiguousarray(tensors[name]).tobytes())
    temporary.replace(path)
    return entries
