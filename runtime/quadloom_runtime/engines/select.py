"""Opens the engine that a family's format needs."""

from pathlib import Path

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.engines.engine import EvaluationEngine, TrainingEngine


def open_training_engine(folder: Path, manifest: FamilyManifest, key: MemberKey, *, threads: int = 1) -> TrainingEngine:
    """Load one member from a family folder (or a device's partial copy of one)."""
    from quadloom_runtime.engines.onnx import OnnxTrainingEngine

    return OnnxTrainingEngine.open(folder, manifest, key, threads=threads)


def open_evaluation_engine(folder: Path, manifest: FamilyManifest, *, threads: int = 1) -> EvaluationEngine:
    """Load the family's evaluation graph."""
    from quadloom_runtime.engines.onnx import OnnxEvaluationEngine

    return OnnxEvaluationEngine.open(folder, manifest, threads=threads)
