"""What every format does for a family: shared files once, files per member, and an engine to try a member with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quadloom_export.graph import JointGraph
from quadloom_runtime.contract.manifest import BlobReference, EvaluationSpec, FormatSpec, MemberKey, TensorSpec
from quadloom_runtime.engines.engine import TrainingEngine

BINARY_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class SharedFiles:
    """What all members of a format have in common."""

    format: FormatSpec
    evaluation: EvaluationSpec


@dataclass(frozen=True)
class MemberFiles:
    """One member on disk; the fields are those of `MemberSpec`."""

    graph: BlobReference
    companions: tuple[BlobReference, ...]
    arena_bytes: int | None
    planned_peak_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FormatWriter(Protocol):
    """Writes one family in one format. `write_shared` comes first: where the weights lie is known only then."""

    def write_shared(self, folder: Path, full: JointGraph, evaluation: JointGraph) -> SharedFiles:
        """Write weights and evaluation graph.

        Args:
            full: the joint graph of full depth; no member reads a frozen tensor that it does not.
        """
        ...

    def write_member(self, folder: Path, key: MemberKey, graph: JointGraph) -> MemberFiles:
        """Write one member, each file under its final name only when complete."""
        ...

    def open_member(self, folder: Path, key: MemberKey, graph: JointGraph, files: MemberFiles) -> TrainingEngine:
        """An engine for the member as written, to measure its gradient error with.

        Args:
            folder: where its files and the shared ones lie.
        """
        ...
