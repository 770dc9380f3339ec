"""The writers of the formats that an export asks for."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from quadloom_export.formats.writer import FormatWriter
from quadloom_runtime.contract.manifest import Format


def format_writers(
    formats: tuple[Format, ...], parameters: Mapping[str, NDArray[np.float32]]
) -> dict[Format, FormatWriter]:
    """A writer per format.

    Args:
        parameters: initial value per row of the parameter table.

    Raises:
        MissingExtraError: a format's package is not installed.
    """
    return {name: _writer(name, parameters) for name in formats}


def _writer(name: Format, parameters: Mapping[str, NDArray[np.float32]]) -> FormatWriter:
    if name == "executorch":
        from quadloom_export.formats.executorch import ExecutorchWriter

        return ExecutorchWriter()
    if name == "ort-training":
        from quadloom_export.formats.ort_training import OrtTrainingWriter

        return OrtTrainingWriter(parameters)
    from quadloom_export.formats.onnx import OnnxWriter

    return OnnxWriter()
