"""Files for `onnxruntime.training.api`: the ONNX graphs again, packaged; weights and evaluation graph are the same."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadloom_export.formats.onnx import FOLDER, ONNX_MEDIA_TYPE, OnnxWriter
from quadloom_export.formats.writer import BINARY_MEDIA_TYPE, MemberFiles, SharedFiles
from quadloom_export.graph import JointGraph
from quadloom_export.lowering.onnx import input_specs, lower_to_onnx, output_specs, translate_graph
from quadloom_export.lowering.ort_allocator import planned_arena_bytes
from quadloom_export.lowering.ort_training import optimizer_model, save_ort_training, trained_names
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.engines.engine import TrainingEngine
from quadloom_runtime.engines.onnx import OnnxTrainingEngine
from quadloom_runtime.engines.ort_training import CHECKPOINT_SUFFIX, EVALUATION_NAME, OPTIMIZER_NAME
from quadloom_runtime.family_folder import blob_reference


class OrtTrainingWriter:
    """Graphs and checkpoints beside those of the ONNX format: onnxruntime opens weights only beside a graph.

    Args:
        parameters: initial value per row of the parameter table, for the checkpoints.
    """

    def __init__(self, parameters: Mapping[str, NDArray[np.float32]]) -> None:
        self._parameters = parameters
        self._plain = OnnxWriter()

    def write_shared(self, folder: Path, full: JointGraph, evaluation: JointGraph) -> SharedFiles:
        """Write weights and evaluation graph, which are the ONNX format's to the byte, and what the API needs."""
        shared = self._plain.write_shared(folder, full, evaluation)
        # The API takes whatever a graph puts out: none of the tensors that the other file lets a caller place.
        plain = translate_graph(evaluation, self._plain.weights).model()
        write_atomically(folder / FOLDER / EVALUATION_NAME, plain.SerializeToString())
        write_atomically(folder / FOLDER / OPTIMIZER_NAME, optimizer_model().SerializeToString())
        return SharedFiles(
            shared.format.model_copy(update={"format": "ort-training"}),
            shared.evaluation.model_copy(update={"format": "ort-training"}),
        )

    def write_member(self, folder: Path, key: MemberKey, graph: JointGraph) -> MemberFiles:
        """Write the member's graph and checkpoint."""
        path = f"{FOLDER}/ort-train-{key.stem}.onnx"
        save_ort_training(folder / path, graph, self._parameters, self._plain.weights)
        checkpoint = Path(path).with_suffix(CHECKPOINT_SUFFIX).as_posix()
        gradients_bytes = sum(self._parameters[name].nbytes for name in trained_names(graph))
        return MemberFiles(
            graph=blob_reference(folder, path, media_type=ONNX_MEDIA_TYPE),
            companions=(
                blob_reference(folder, checkpoint, media_type=BINARY_MEDIA_TYPE),
                blob_reference(folder, f"{FOLDER}/{EVALUATION_NAME}", media_type=ONNX_MEDIA_TYPE),
                blob_reference(folder, f"{FOLDER}/{OPTIMIZER_NAME}", media_type=ONNX_MEDIA_TYPE),
            ),
            arena_bytes=None,
            # The training API holds a buffer per gradient from the first step on.
            planned_peak_bytes=planned_arena_bytes(graph) + gradients_bytes,
            inputs=input_specs(graph),
            outputs=output_specs(graph),
        )

    def open_member(self, folder: Path, key: MemberKey, graph: JointGraph, files: MemberFiles) -> TrainingEngine:
        """The same graph before it was packaged: both packages cannot be installed where the exporter runs."""
        path = folder / FOLDER / f".{key.stem}.onnx"
        try:
            write_atomically(path, lower_to_onnx(graph, self._plain.weights).content)
            return OnnxTrainingEngine(path, inputs=files.inputs, outputs=files.outputs, label=key.label)
        finally:
            path.unlink(missing_ok=True)
