"""An update is checked before it counts: what a device sends is not trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.contract.wire import UpdateReport
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.json_depth import is_deeper_than
from quadloom_server.aggregation.norm import update_norm
from quadloom_server.aggregation.safetensors_header import (
    MalformedSafetensorsError,
    SafetensorsHeader,
    TensorEntry,
    read_header,
    read_tensor,
)

REPORT_KEY = "report"
REPORT_DEPTH = 2
"""A report is an object, and its gradient norms are a list."""
LARGEST_CHANGE = 1e4
"""No honest round moves a weight this far; a finite but absurd value would spoil the global model for good."""
REMEDY = "send the rows that the assigned member trains, float32, with the report in the metadata"
FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True)
class Update:
    """One checked update: float32 tensors by name, and what the device says about its training."""

    tensors: dict[str, FloatArray]
    report: UpdateReport


@dataclass(frozen=True, kw_only=True)
class UpdateBounds:
    """What one update may claim and do at most; None is no bound.

    Attributes:
        examples: training examples that it rests on.
        steps: optimizer steps.
        norm: L2 norm over all of its tensors together.
    """

    examples: int | None = None
    steps: int | None = None
    norm: float | None = None


class InvalidUpdateError(QuadloomError):
    """The content of an update is not what its assignment asked for."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, remedy=REMEDY)


def read_update(path: Path, expected: Sequence[ParameterSpec], *, bounds: UpdateBounds) -> Update:
    """Read a safetensors update and hold it against the rows that the member trains.

    All that the header says is checked before any tensor is read.

    Raises:
        InvalidUpdateError: not safetensors, no valid report, other names, shapes, dtypes or values than expected, or
            more than the bounds allow.
    """
    try:
        header = read_header(path)
        _check_table(header.tensors, expected)
        report = _report(header)
        _check_report(report, bounds)
        _check_layers(report, expected)
        tensors = {row.name: _read_finite(path, header, row.name) for row in expected}
    except MalformedSafetensorsError as error:
        raise InvalidUpdateError(f"the body is not safetensors: {error.cause}") from None
    norm = update_norm(tensors)
    if bounds.norm is not None and norm > bounds.norm:
        raise InvalidUpdateError(f"the update has the L2 norm {norm:g}, more than {bounds.norm:g}")
    return Update(tensors, report)


def trained_layers(rows: Sequence[ParameterSpec]) -> tuple[int, ...]:
    """The layers that these rows belong to, in the order in which a report gives their gradient norms."""
    return tuple(sorted({row.layer for row in rows if isinstance(row.layer, int)}))


def _check_table(tensors: Mapping[str, TensorEntry], expected: Sequence[ParameterSpec]) -> None:
    shapes = {row.name: row.shape for row in expected}
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing:
        raise InvalidUpdateError(f"{len(missing)} tensors of the member are missing, first {missing[0]!r}")
    if unknown:
        raise InvalidUpdateError(f"{len(unknown)} tensors are not trained by the member, first {unknown[0][:80]!r}")
    for name, entry in tensors.items():
        if entry.dtype != FLOAT32:
            raise InvalidUpdateError(f"tensor {name!r} is {entry.dtype}, not float32")
        if entry.shape != shapes[name]:
            raise InvalidUpdateError(f"tensor {name!r} has shape {list(entry.shape)}, not {list(shapes[name])}")


def _read_finite(path: Path, header: SafetensorsHeader, name: str) -> FloatArray:
    value: FloatArray = read_tensor(path, header, name).astype(np.float32, copy=False)
    if not np.isfinite(value).all():
        raise InvalidUpdateError(f"tensor {name!r} holds NaN or infinite values")
    change = max(value.max(), -value.min()) if value.size else 0.0
    if change > LARGEST_CHANGE:
        raise InvalidUpdateError(f"tensor {name!r} changes by {change:g}, more than {LARGEST_CHANGE:g}")
    return value


def _report(header: SafetensorsHeader) -> UpdateReport:
    text = header.metadata.get(REPORT_KEY)
    if text is None:
        raise InvalidUpdateError(f"the safetensors metadata has no {REPORT_KEY!r} entry")
    if is_deeper_than(text.encode(), REPORT_DEPTH):
        raise InvalidUpdateError("the report is not valid: it nests")
    try:
        return UpdateReport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidUpdateError(
            f"the report is not valid: {place[:80]} is {first['input']!r:.200}: {first['msg']}"
        ) from None


def _check_layers(report: UpdateReport, expected: Sequence[ParameterSpec]) -> None:
    found, trained = len(report.gradient_norms), len(trained_layers(expected))
    if found not in (0, trained):
        raise InvalidUpdateError(f"the report has gradient norms of {found} layers, the member trains {trained}")


def _check_report(report: UpdateReport, bounds: UpdateBounds) -> None:
    for field, bound in (("examples", bounds.examples), ("steps", bounds.steps)):
        if bound is not None and getattr(report, field) > bound:
            raise InvalidUpdateError(
                f"the report claims {getattr(report, field)} {field}, at most {bound} are possible"
            )
