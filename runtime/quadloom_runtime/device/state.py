"""What survives a kill: the current assignment and where its training stood."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from quadloom_runtime.contract.wire import UpdateReport
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.family_folder import write_atomically
from quadloom_runtime.trainer import Checkpoint

PARAMETER, STATE = "parameter/", "optimizer/"


@dataclass(frozen=True)
class DeviceState:
    """Files below `folder`, each written atomically."""

    folder: Path

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save_progress(self, assignment_id: str, progress: Checkpoint) -> None:
        """Keep where the training of an assignment stands, optimizer state included."""
        tensors = {PARAMETER + name: value for name, value in progress.parameters.items()}
        tensors |= {STATE + name: value for name, value in progress.optimizer_state.items()}
        figures = {
            "assignment_id": assignment_id,
            "step": progress.step,
            "losses": progress.losses,
            "examples": progress.examples,
            "train_s": progress.train_s,
        }
        write_atomically(self._checkpoint, save(tensors, {"progress": json.dumps(figures)}))

    def load_progress(self, assignment_id: str) -> Checkpoint:
        """Where an assignment stands; the beginning if nothing (readable) is kept for it."""
        try:
            with safe_open(self._checkpoint, "numpy") as file:
                figures = json.loads((file.metadata() or {})["progress"])
            tensors = load_file(self._checkpoint)
        except (OSError, SafetensorError, KeyError, ValueError):
            return Checkpoint()
        if figures["assignment_id"] != assignment_id:
            return Checkpoint()
        return Checkpoint(
            step=figures["step"],
            parameters=_part(tensors, PARAMETER),
            optimizer_state=_part(tensors, STATE),
            losses=tuple(figures["losses"]),
            examples=figures["examples"],
            train_s=figures["train_s"],
        )

    def forget_progress(self) -> None:
        """The assignment is done with."""
        self._checkpoint.unlink(missing_ok=True)


def update_bytes(update: dict[str, FloatArray], report: UpdateReport) -> bytes:
    """An update as it travels: tensors, and the report as JSON in the metadata entry ``report``."""
    contiguous = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in update.items()}
    return save(contiguous, {"report": report.model_dump_json()})


def _part(tensors: dict[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
