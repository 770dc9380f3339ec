"""Opens the engine that a family's format needs."""

from pathlib import Path

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.engines.engine import EvaluationEngine, TrainingEngine
from quadloom_runtime.engines.onnx_files import check_graph_files


def open_training_engine(folder: Path, manifest: FamilyManifest, key: MemberKey, *, threads: int = 1) -> TrainingEngine:
    """Load one member from a family folder (or a device's partial copy of one).

    Raises:
        UnsafeGraphError: its graph reaches for more than the family's weights.
        QuadloomError: the family has no such member, or its files cannot be loaded.
    """
    from quadloom_runtime.engines.onnx import OnnxTrainingEngine

    member = next((each for each in manifest.members if each.key == key), None)
    if member is not None:
        check_graph_files(folder / member.graph.path, folder / manifest.format_spec(key.format).weights.path)
    return OnnxTrainingEngine.open(folder, manifest, key, threads=threads)


def open_evaluation_engine(folder: Path, manifest: FamilyManifest, *, threads: int = 1) -> EvaluationEngine:
    """Load the family's evaluation graph.

    Raises:
        UnsafeGraphError: it reaches for more than the family's weights.
        QuadloomError: its files cannot be loaded.
    """
    from quadloom_runtime.engines.onnx import OnnxEvaluationEngine

    weights = folder / manifest.format_spec("onnx").weights.path
    for each in manifest.evaluation:
        if each.format == "onnx":
            check_graph_files(folder / each.graph.path, weights)
    return OnnxEvaluationEngine.open(folder, manifest, threads=threads)
