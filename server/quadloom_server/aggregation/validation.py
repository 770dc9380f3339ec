"""An update is checked before it counts: what a device sends is not trusted."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.contract.wire import UpdateReport
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError

REPORT_KEY = "report"
LARGEST_CHANGE = 1e4
"""No honest round moves a weight this far; a finite but absurd value would spoil the global model for good."""
HEADER_LENGTH_BYTES = 8
REMEDY = "send the rows that the assigned member trains, float32, with the report in the metadata"


@dataclass(frozen=True)
class Update:
    """One checked update: float32 tensors by name, and what the device says about its training."""

    tensors: dict[str, FloatArray]
    report: UpdateReport


class InvalidUpdateError(QuadloomError):
    """The content of an update is not what its assignment asked for."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, remedy=REMEDY)


def parse_update(content: bytes, expected: Sequence[ParameterSpec]) -> Update:
    """Read a safetensors update and hold it against the rows that the member trains.

    Raises:
        InvalidUpdateError: not safetensors, no valid report, or other names, shapes, dtypes or values than expected.
    """
    report = _read_report(content)
    tensors = _load(content)
    shapes = {row.name: row.shape for row in expected}
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing:
        raise InvalidUpdateError(f"{len(missing)} tensors of the member are missing, first {missing[0]!r}")
    if unknown:
        raise InvalidUpdateError(f"{len(unknown)} tensors are not trained by the member, first {unknown[0]!r}")
    for name, value in tensors.items():
        _check_tensor(name, value, shapes[name])
    return Update(tensors, report)


def largest_update_bytes(parameters: Sequence[ParameterSpec]) -> int:
    """Upper bound on the size of an honest update that trains all of `parameters`, header and report included."""
    values = sum(4 * math.prod(row.shape) for row in parameters)
    names = sum(len(row.name.encode()) + 200 for row in parameters)
    return values + names + 65536


def _check_tensor(name: str, value: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    if value.dtype != np.float32:
        raise InvalidUpdateError(f"tensor {name!r} is {value.dtype}, not float32")
    if value.shape != shape:
        raise InvalidUpdateError(f"tensor {name!r} has shape {list(value.shape)}, not {list(shape)}")
    if not np.isfinite(value).all():
        raise InvalidUpdateError(f"tensor {name!r} holds NaN or infinite values")
    if value.size and np.abs(value).max() > LARGEST_CHANGE:
        raise InvalidUpdateError(f"tensor {name!r} changes by {np.abs(value).max():g}, more than {LARGEST_CHANGE:g}")


def _load(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    # KeyError: a dtype that numpy does not have, such as bfloat16.
    try:
        return dict(load(content))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidUpdateError(f"the body of {len(content)} bytes is not readable safetensors: {error}") from None


def _read_report(content: bytes) -> UpdateReport:
    """The report out of the header's metadata, which safetensors itself reads from files only."""
    size = int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + size])
        text = header["__metadata__"][REPORT_KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidUpdateError(f"the safetensors metadata has no {REPORT_KEY!r} entry") from None
    try:
        report = UpdateReport.model_validate_json(text)
    except ValidationError as error:
        raise InvalidUpdateError(f"the report is not valid: {error.errors()[0]['msg']} in {text[:200]!r}") from None
    for field in ("loss_first", "loss_last", "train_s"):
        if not math.isfinite(getattr(report, field)):
            raise InvalidUpdateError(f"{field} is {getattr(report, field)}, not a finite number")
    return report
