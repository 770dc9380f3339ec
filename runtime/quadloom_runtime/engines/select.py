"""Opens the engine that a family's format needs."""

from pathlib import Path

from quadloom_runtime.contract.manifest import EvaluationSpec, FamilyManifest, MemberKey, MemberSpec
from quadloom_runtime.engines.engine import EvaluationEngine, TrainingEngine
from quadloom_runtime.engines.executorch_files import check_program_files
from quadloom_runtime.engines.installed import installed_formats
from quadloom_runtime.engines.onnx_files import check_graph_files
from quadloom_runtime.errors import QuadloomError


def open_training_engine(folder: Path, manifest: FamilyManifest, key: MemberKey, *, threads: int = 1) -> TrainingEngine:
    """Load one member from a family folder (or a device's partial copy of one).

    Raises:
        UnsafeGraphError, UnsafeProgramError: its graph reaches for more than the family's weights.
        MissingExtraError: the package of its format is not installed.
        QuadloomError: the family has no such member, or its files cannot be loaded.
    """
    member = _member(manifest, key)
    shared = manifest.format_spec(key.format)
    graph, weights = folder / member.graph.path, folder / shared.weights.path
    specs = {"inputs": member.inputs, "outputs": member.outputs}
    if key.format == "executorch":
        from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine

        check_program_files(graph, weights, backend=shared.backend or "portable")
        return ExecutorchTrainingEngine(
            graph, weights, inputs=member.inputs, outputs=member.outputs, threads=threads, label=key.label
        )
    check_graph_files(graph, weights)
    if key.format == "ort-training":
        from quadloom_runtime.engines.ort_training import OrtTrainingEngine

        for blob in member.companions:
            if blob.path.endswith(".onnx"):
                check_graph_files(folder / blob.path, weights)
        return OrtTrainingEngine(graph, threads=threads, label=key.label)
    from quadloom_runtime.engines.onnx import OnnxTrainingEngine

    return OnnxTrainingEngine(graph, **specs, threads=threads, label=key.label)


def open_evaluation_engine(folder: Path, manifest: FamilyManifest, *, threads: int = 1) -> EvaluationEngine:
    """Load the family's evaluation graph, in the first format that is installed here.

    Raises:
        UnsafeGraphError, UnsafeProgramError: it reaches for more than the family's weights.
        QuadloomError: no package for any of them is installed, or its files cannot be loaded.
    """
    found = _evaluation(manifest)
    shared = manifest.format_spec(found.format)
    graph, weights = folder / found.graph.path, folder / shared.weights.path
    if found.format == "executorch":
        from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine

        check_program_files(graph, weights, backend=shared.backend or "portable")
        return ExecutorchEvaluationEngine(graph, weights, inputs=found.inputs, outputs=found.outputs, threads=threads)
    from quadloom_runtime.engines.onnx import OnnxEvaluationEngine

    check_graph_files(graph, weights)
    return OnnxEvaluationEngine(graph, inputs=found.inputs, outputs=found.outputs, threads=threads)


def _member(manifest: FamilyManifest, key: MemberKey) -> MemberSpec:
    for member in manifest.members:
        if member.key == key:
            return member
    have = ", ".join(each.key.label for each in manifest.members)
    raise QuadloomError(f"the family has no member {key.label} ({key.format})", remedy=f"choose from: {have}")


def _evaluation(manifest: FamilyManifest) -> EvaluationSpec:
    installed = installed_formats()
    for each in manifest.evaluation:
        # For evaluation, the graph of ort-training is one that the plain package runs, too.
        if each.format in installed or (each.format == "ort-training" and "onnx" in installed):
            return each
    have = ", ".join(each.format for each in manifest.evaluation) or "none"
    raise QuadloomError(
        f"no evaluation graph can be run here: the family has {have}, installed is {', '.join(installed) or 'none'}",
        remedy="install the extra of one of the family's formats, e.g. pip install 'quadloom[onnx]'",
    )
