"""The tensors of an adapter as a file; what is read is held against the parameter table before it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError


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


def tensors_bytes(tensors: Mapping[str, FloatArray], metadata: Mapping[str, str]) -> bytes:
    """Tensors as safetensors, float32, however they lie in memory."""
    # safetensors writes the buffer as it lies: a transposed view would come back wrong.
    whole = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
    return save(whole, dict(metadata))
