"""What survives a kill: where the training of an assignment stood, and an update that is not reported yet."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load

from quadloom_runtime.adapter_file import tensors_bytes
from quadloom_runtime.contract.wire import UpdateReport
from quadloom_runtime.durable_files import make_folder, using
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.sealed_files import read_sealed, write_sealed
from quadloom_runtime.trainer import Checkpoint

PARAMETER, OPTIMIZER = "parameter/", "optimizer/"
LENGTH_BYTES = 8
CHECKPOINT_SUFFIX, UPDATE_SUFFIX, HERE_SUFFIX = ".checkpoint", ".update", ".here"


@dataclass(frozen=True)
class DeviceState:
    """Files below `folder`, each whole and sealed, and named after the assignment that it belongs to."""

    folder: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of the folder.

        Raises:
            QuadloomError: another one is in, or the folder cannot be written.
        """
        make_folder(self.folder)
        path = self.folder / "lock"
        with using(path):
            file = path.open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise QuadloomError(
                    f"another device uses {self.folder}", remedy="give each device its own --cache and --name"
                ) from None
            yield

    def bytes_here_at_first(self, assignment_id: str, here_bytes: int) -> int:
        """`here_bytes` as it was when the assignment was begun: after a kill it is what was said the first time."""
        path = self._path(assignment_id, HERE_SUFFIX)
        noted = read_sealed(path)
        if noted is not None:
            return int(noted)
        write_sealed(path, str(here_bytes).encode())
        return here_bytes

    def save_checkpoint(self, assignment_id: str, checkpoint: Checkpoint) -> None:
        """Keep where the training of an assignment stands, optimizer state included."""
        tensors = {PARAMETER + name: value for name, value in checkpoint.parameters.items()}
        tensors |= {OPTIMIZER + name: value for name, value in checkpoint.optimizer_state.items()}
        figures = {
            "step": checkpoint.step,
            "losses": checkpoint.losses,
            "examples": checkpoint.examples,
            "train_s": checkpoint.train_s,
            "gradient_norms": checkpoint.gradient_norms,
        }
        content = tensors_bytes(tensors, {"figures": json.dumps(figures)})
        write_sealed(self._path(assignment_id, CHECKPOINT_SUFFIX), content, half_written="checkpoint-half-written")

    def load_checkpoint(self, assignment_id: str) -> Checkpoint | None:
        """Where an assignment stands; None if nothing, or nothing unaltered, is kept for it."""
        content = read_sealed(self._path(assignment_id, CHECKPOINT_SUFFIX))
        if content is None:
            return None
        figures, tensors = json.loads(_metadata(content)["figures"]), load(content)
        return Checkpoint(
            step=figures["step"],
            parameters=_part(tensors, PARAMETER),
            optimizer_state=_part(tensors, OPTIMIZER),
            losses=tuple(figures["losses"]),
            examples=figures["examples"],
            train_s=figures["train_s"],
            # JSON has only texts as keys; a checkpoint of an earlier release has no norms.
            gradient_norms={int(layer): tuple(norms) for layer, norms in figures.get("gradient_norms", {}).items()},
        )

    def save_update(self, assignment_id: str, content: bytes) -> None:
        """Keep a finished update until the server has it."""
        write_sealed(self._path(assignment_id, UPDATE_SUFFIX), content, half_written="update-half-written")

    def load_update(self, assignment_id: str) -> bytes | None:
        """The finished update of an assignment; None if there is none, or it was altered and must be made again."""
        return read_sealed(self._path(assignment_id, UPDATE_SUFFIX))

    def forget_all_but(self, assignment_id: str | None) -> None:
        """Remove what belongs to other assignments; None removes everything."""
        kept = None if assignment_id is None else _file_name(assignment_id)
        for suffix in (CHECKPOINT_SUFFIX, UPDATE_SUFFIX, HERE_SUFFIX):
            for path in self.folder.glob("*" + suffix):
                if path.stem != kept:
                    path.unlink(missing_ok=True)

    def _path(self, assignment_id: str, suffix: str) -> Path:
        return self.folder / (_file_name(assignment_id) + suffix)


def update_bytes(update: Mapping[str, FloatArray], report: UpdateReport) -> bytes:
    """An update as it travels: tensors, and the report as JSON in the metadata entry ``report``."""
    return tensors_bytes(update, {"report": report.model_dump_json()})


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in the header of a safetensors file, which the library reads from paths only."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    found: dict[str, str] = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])["__metadata__"]
    return found


def _file_name(assignment_id: str) -> str:
    # The server chose the id: it must not name a path.
    return hashlib.sha256(assignment_id.encode()).hexdigest()[:32]


def _part(tensors: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
