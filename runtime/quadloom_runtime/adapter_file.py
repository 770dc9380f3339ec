"""The tensors of an adapter as a file; what is read is held against the parameter table before it is used."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError

FLOAT32_BYTES: Final = 4
LARGEST_ENTRY_BYTES: Final = 200
"""What the header says of a tensor beside its name."""
LARGEST_METADATA_BYTES: Final = 65536


class WrongAdapterError(QuadloomError):
    """A file that is not an adapter of this family."""


def read_parameters(path: Path, table: Sequence[ParameterSpec], *, remedy: str) -> dict[str, FloatArray]:
    """Read an adapter's tensors: every row of the parameter table, float32.

    Raises:
        WrongAdapterError: unreadable, or other names, shapes or dtypes than the table's.
    """
    try:
        tensors: Mapping[str, FloatArray] = load_file(path)
    # safetensors has no NumPy name for some dtypes, and raises KeyError or AttributeError then.
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise WrongAdapterError(f"the adapter {path} cannot be read: {error}", remedy=remedy) from None
    found = {name: f"{value.dtype} {list(value.shape)}" for name, value in tensors.items()}
    expected = {row.name: f"float32 {list(row.shape)}" for row in table}
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        raise WrongAdapterError(
            f"the adapter {path} differs from the parameter table in {len(different)} tensors, "
            f"first {different[0][:200]!r}: {found.get(different[0], 'absent')} in the file, "
            f"{expected.get(different[0], 'absent')} in the table",
            remedy=remedy,
        )
    return dict(tensors)


def largest_tensors_bytes(rows: Sequence[ParameterSpec]) -> int:
    """Upper bound on the size of a file of these tensors or of some of them, at their rank or a lower one.

    Header and metadata are included, the report of an update among them.
    """
    values = sum(FLOAT32_BYTES * math.prod(row.shape) for row in rows)
    names = sum(len(row.name.encode()) + LARGEST_ENTRY_BYTES for row in rows)
    return values + names + LARGEST_METADATA_BYTES


def tensors_bytes(tensors: Mapping[str, FloatArray], metadata: Mapping[str, str]) -> bytes:
    """Tensors as safetensors, float32, however they lie in memory."""
    # safetensors writes the buffer as it lies: a transposed view would come back wrong.
    whole = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    return save(whole, dict(metadata))
