"""ONNX files for plain onnxruntime."""

from pathlib import Path

from quadloom_export.formats.writer import BINARY_MEDIA_TYPE, MemberFiles, SharedFiles
from quadloom_export.graph import JointGraph
from quadloom_export.lowering.onnx import (
    IR_VERSION,
    OPSET,
    WEIGHTS_NAME,
    OnnxFile,
    input_specs,
    lower_to_onnx,
    output_specs,
    weight_tensors,
)
from quadloom_export.lowering.weights import WeightEntry, write_weights
from quadloom_runtime.contract.manifest import EvaluationSpec, FormatSpec, MemberKey
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.engines.engine import TrainingEngine
from quadloom_runtime.engines.onnx import OnnxTrainingEngine
from quadloom_runtime.family_folder import blob_reference

FOLDER = "onnx"
WEIGHTS_PATH = f"{FOLDER}/{WEIGHTS_NAME}"
EVALUATION_PATH = f"{FOLDER}/eval.onnx"
ONNX_MEDIA_TYPE = "application/onnx"
SMALL_TENSORS_BYTES = 100_000
"""What a step takes beside its arena and the copies of its results: what is too small for the arena."""


class OnnxWriter:
    """Graphs in ``onnx/``, all with the weights of `WEIGHTS_PATH`.

    Attributes:
        weights: where each frozen tensor lies in that file.
    """

    def __init__(self) -> None:
        self.weights: dict[str, WeightEntry] = {}

    def write_shared(self, folder: Path, full: JointGraph, evaluation: JointGraph) -> SharedFiles:
        """Write weights and evaluation graph."""
        path = folder / WEIGHTS_PATH
        path.parent.mkdir(parents=True, exist_ok=True)
        self.weights = write_weights(path, weight_tensors(full, evaluation))
        file = lower_to_onnx(evaluation, self.weights)
        write_atomically(folder / EVALUATION_PATH, file.content)
        weights = blob_reference(folder, WEIGHTS_PATH, media_type=BINARY_MEDIA_TYPE)
        return SharedFiles(
            FormatSpec(format="onnx", weights=weights, versions={"opset": OPSET, "ir": IR_VERSION}),
            EvaluationSpec(
                format="onnx",
                graph=blob_reference(folder, EVALUATION_PATH, media_type=ONNX_MEDIA_TYPE),
                planned_peak_bytes=_planned_peak_bytes(file, evaluation),
                inputs=input_specs(evaluation),
                outputs=output_specs(evaluation),
            ),
        )

    def write_member(self, folder: Path, key: MemberKey, graph: JointGraph) -> MemberFiles:
        """Write the member's graph."""
        path = f"{FOLDER}/train-{key.stem}.onnx"
        file = lower_to_onnx(graph, self.weights)
        write_atomically(folder / path, file.content)
        return MemberFiles(
            graph=blob_reference(folder, path, media_type=ONNX_MEDIA_TYPE),
            companions=(),
            arena_bytes=file.arena_bytes,
            planned_peak_bytes=_planned_peak_bytes(file, graph),
            inputs=input_specs(graph),
            outputs=output_specs(graph),
        )

    def open_member(
        self,
        folder: Path,
        key: MemberKey,
        graph: JointGraph,  # noqa: ARG002 - part of the protocol
        files: MemberFiles,
    ) -> TrainingEngine:
        """Load it."""
        return OnnxTrainingEngine(
            folder / files.graph.path, inputs=files.inputs, outputs=files.outputs, label=key.label
        )


def _planned_peak_bytes(file: OnnxFile, graph: JointGraph) -> int:
    return file.arena_bytes + graph.results_bytes + SMALL_TENSORS_BYTES
