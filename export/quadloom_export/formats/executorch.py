"""ExecuTorch programs with one data file."""

from collections.abc import Mapping
from pathlib import Path

from quadloom_export.formats.writer import BINARY_MEDIA_TYPE, MemberFiles, SharedFiles
from quadloom_export.graph import JointGraph
from quadloom_export.lowering.executorch import (
    WEIGHTS_NAME,
    ExecutorchMember,
    input_specs,
    lower_to_executorch,
    output_specs,
    save,
    weights_file,
)
from quadloom_export.lowering.executorch_adamw import flat_length, lower_adamw
from quadloom_export.lowering.executorch_single import single_file
from quadloom_runtime.contract.manifest import BlobReference, EvaluationSpec, ExecutorchBackend, FormatSpec, MemberKey
from quadloom_runtime.engines.engine import TrainingEngine
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine
from quadloom_runtime.family_folder import blob_reference

WEIGHTS_PATH = f"executorch/{WEIGHTS_NAME}"
EVALUATION_PATH = "executorch/eval.pte"
OPTIMIZER_PATH = "executorch/adamw.pte"
SINGLE_FILE_PATH = "executorch/all.pte"
METHOD_BYTES = 1_100_000
METHOD_SHARE = 4.4
"""What a loaded method takes beside its arena: a start, and so many bytes per byte of its program, which becomes
values, tensors and instructions (`quadloom bench memory`: within 0.5 MB from 6 to 12 layers, both backends)."""


class ExecutorchWriter:
    """Programs in ``executorch/``, all with the weights of `WEIGHTS_PATH`."""

    def __init__(self, backend: ExecutorchBackend) -> None:
        self._backend = backend

    def write_shared(self, folder: Path, full: JointGraph, evaluation: JointGraph) -> SharedFiles:
        """Write weights and evaluation program."""
        from executorch.exir.version import EXECUTORCH_SCHEMA_VERSION

        (folder / WEIGHTS_PATH).parent.mkdir(parents=True, exist_ok=True)
        save(weights_file(full, evaluation), folder / WEIGHTS_PATH)
        lowered = lower_to_executorch(evaluation, backend=self._backend)
        save(lowered.program, folder / EVALUATION_PATH)
        save(lower_adamw(flat_length(full.parameters)), folder / OPTIMIZER_PATH)
        weights = blob_reference(folder, WEIGHTS_PATH, media_type=BINARY_MEDIA_TYPE)
        return SharedFiles(
            FormatSpec(
                format="executorch",
                weights=weights,
                versions={"program": EXECUTORCH_SCHEMA_VERSION},
                backend=self._backend,
                optimizer=blob_reference(folder, OPTIMIZER_PATH, media_type=BINARY_MEDIA_TYPE),
            ),
            EvaluationSpec(
                format="executorch",
                graph=blob_reference(folder, EVALUATION_PATH, media_type=BINARY_MEDIA_TYPE),
                planned_peak_bytes=_planned_peak_bytes(lowered, evaluation),
                inputs=input_specs(evaluation),
                outputs=output_specs(evaluation),
            ),
        )

    def write_member(self, folder: Path, key: MemberKey, graph: JointGraph) -> MemberFiles:
        """Write the member's program."""
        path = f"executorch/train-{key.stem}.pte"
        lowered = lower_to_executorch(graph, backend=self._backend)
        save(lowered.program, folder / path)
        return MemberFiles(
            graph=blob_reference(folder, path, media_type=BINARY_MEDIA_TYPE),
            companions=(),
            arena_bytes=lowered.arena_bytes,
            planned_peak_bytes=_planned_peak_bytes(lowered, graph),
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
        return ExecutorchTrainingEngine(
            folder / files.graph.path,
            folder / WEIGHTS_PATH,
            inputs=files.inputs,
            outputs=files.outputs,
            label=key.label,
        )


def _planned_peak_bytes(lowered: ExecutorchMember, graph: JointGraph) -> int:
    """The arena, copies of the results, and the method that the runtime builds from the program when it first runs."""
    return lowered.arena_bytes + graph.results_bytes + METHOD_BYTES + round(METHOD_SHARE * len(lowered.program))


def write_single_file(folder: Path, graphs: Mapping[str, JointGraph], *, backend: ExecutorchBackend) -> BlobReference:
    """Write one program with a method per graph and AdamW, for loaders that take no data file."""
    save(single_file(graphs, backend=backend), folder / SINGLE_FILE_PATH)
    return blob_reference(folder, SINGLE_FILE_PATH, media_type=BINARY_MEDIA_TYPE)
