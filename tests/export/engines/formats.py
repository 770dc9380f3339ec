"""Every engine, opened on the tiny models: what holds for one must hold for all.

Which engines are there depends on the environment: `onnxruntime` and `onnxruntime-training` exclude each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_export.graph import JointGraph
from quadloom_export.lowering import executorch, onnx
from quadloom_export.lowering.ort_training import AdamWSettings, optimizer_model, save_ort_training
from quadloom_export.lowering.weights import write_weights
from quadloom_export.pipeline import at_depth
from quadloom_runtime.contract.manifest import TensorSpec
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine, ExecutorchTrainingEngine
from quadloom_runtime.engines.onnx import OnnxEvaluationEngine, OnnxTrainingEngine
from quadloom_runtime.engines.ort_package import require_training_package
from quadloom_runtime.engines.ort_training import EVALUATION_NAME, OPTIMIZER_NAME, OrtTrainingEngine
from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class Opening:
    """All that it takes to open an engine, here or in another process."""

    engine: type
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def open(self, *, threads: int = 1) -> Any:
        return self.engine(*self.arguments, **self.options, threads=threads)


@dataclass(frozen=True)
class Source:
    """A model's graphs, and the folder for its files."""

    training: JointGraph
    evaluation: JointGraph
    folder: Path
    parameters: Mapping[str, np.ndarray]


class OnnxFormat:
    """Plain ONNX Runtime."""

    static_batch = False

    def require(self) -> None:
        if find_spec("onnxruntime") is None or is_training_package():
            pytest.skip("onnxruntime is not installed")

    def training(self, source: Source, graph: JointGraph, label: str) -> Opening:
        path = source.folder / f"{label}.onnx"
        path.write_bytes(onnx.lower_to_onnx(graph, self._weights(source)).content)
        return Opening(OnnxTrainingEngine, (path,), specs_of(onnx, graph) | {"label": label})

    def evaluation(self, source: Source) -> Opening:
        path = source.folder / "eval.onnx"
        path.write_bytes(onnx.lower_to_onnx(source.evaluation, self._weights(source)).content)
        return Opening(OnnxEvaluationEngine, (path,), specs_of(onnx, source.evaluation))

    def files(self, opening: Opening) -> list[Path]:
        return [opening.arguments[0]]

    def _weights(self, source: Source) -> Any:
        return write_weights(source.folder / "weights.bin", onnx.weight_tensors(source.training, source.evaluation))


class ExecutorchFormat:
    """The plain ExecuTorch runtime."""

    static_batch = True

    def require(self) -> None:
        pytest.importorskip("executorch")

    def training(self, source: Source, graph: JointGraph, label: str) -> Opening:
        path = source.folder / f"{label}.pte"
        executorch.save(executorch.lower_to_executorch(graph).program, path)
        options = specs_of(executorch, graph) | {"label": label}
        return Opening(ExecutorchTrainingEngine, (path, self._weights(source)), options)

    def evaluation(self, source: Source) -> Opening:
        path = source.folder / "eval.pte"
        executorch.save(executorch.lower_to_executorch(source.evaluation).program, path)
        options = specs_of(executorch, source.evaluation)
        return Opening(ExecutorchEvaluationEngine, (path, self._weights(source)), options)

    def files(self, opening: Opening) -> list[Path]:
        return list(opening.arguments)

    def _weights(self, source: Source) -> Path:
        path = source.folder / "weights.ptd"
        if not path.exists():
            executorch.save(executorch.weights_file(source.training, source.evaluation), path)
        return path


class OrtTrainingFormat:
    """The package onnxruntime-training."""

    static_batch = False

    def require(self) -> None:
        if not is_training_package():
            pytest.skip("onnxruntime-training is not installed")

    def training(self, source: Source, graph: JointGraph, label: str) -> Opening:
        entries = write_weights(source.folder / "weights.bin", onnx.weight_tensors(source.training, source.evaluation))
        path = source.folder / f"ort-train-{label}.onnx"
        save_ort_training(path, graph, source.parameters, entries)
        plain = (
            onnx.translate_graph(source.evaluation, entries).model(),
            optimizer_model(AdamWSettings(weight_decay=0.0)),
        )
        for name, model in zip((EVALUATION_NAME, OPTIMIZER_NAME), plain, strict=True):
            (source.folder / name).write_bytes(model.SerializeToString())
        return Opening(OrtTrainingEngine, (path,), {"label": label})

    def evaluation(self, source: Source) -> Opening:
        return self.training(source, at_depth(source.training, 0), "evaluation")

    def files(self, opening: Opening) -> list[Path]:
        return [opening.arguments[0]]


FORMATS = {"onnx": OnnxFormat(), "executorch": ExecutorchFormat(), "ort-training": OrtTrainingFormat()}
Format = OnnxFormat | ExecutorchFormat | OrtTrainingFormat


@cache
def is_training_package() -> bool:
    try:
        require_training_package()
    except QuadloomError:
        return False
    return True


def specs_of(lowering: Any, graph: JointGraph) -> dict[str, tuple[TensorSpec, ...]]:
    return {"inputs": lowering.input_specs(graph), "outputs": lowering.output_specs(graph)}


def arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in tensors.items()}


def as_batch(tensors: Mapping[str, Any]) -> Batch:
    """A batch for an engine; token types default to zeros."""
    found = arrays(tensors)
    found.setdefault("token_type_ids", np.zeros_like(found["input_ids"]))
    return Batch(**found)


def relative_l2(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Over the tensors of `found`, together."""
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


def source_of(format_: Format, tiny: Any) -> Source:
    folder = tiny.folder / type(format_).__name__
    folder.mkdir(exist_ok=True)
    return Source(tiny.training, tiny.evaluation, folder, arrays(tiny.parameters()))


@cache
def opening_of(format_: Format, tiny: Any, depth: int, quantized_layers: int) -> Opening:
    """One member of a tiny model, written once per session."""
    graph, label = tiny.member(depth, quantized_layers), f"d{depth:02d}-q{quantized_layers:02d}"
    return format_.training(source_of(format_, tiny), graph, label)


@cache
def engine_of(format_: Format, tiny: Any, depth: int, quantized_layers: int) -> Any:
    """One engine per member and session."""
    return opening_of(format_, tiny, depth, quantized_layers).open()


@cache
def evaluation_of(format_: Format, tiny: Any) -> Any:
    """One evaluation engine per model and session."""
    return format_.evaluation(source_of(format_, tiny)).open()
