"""Every round's adapter as a folder that `PeftModel.from_pretrained` loads."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from quadloom_runtime.adapter_file import read_parameters, tensors_bytes
from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.durable_files import UNFINISHED_SUFFIX, make_folder, rename_durably, using, write_atomically
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_server.family import ADAPTER_TENSORS, ServedFamily
from quadloom_server.store.blobs import checked_file
from quadloom_server.store.tables import Round

MEDIA_TYPE = "application/vnd.safetensors"
LATEST = "latest"
FOR_PEFT = {"format": "pt"}


class AdapterFolders:
    """``root/adapters/round-0003`` per round, round 0 being the initial adapter, and ``latest`` as a link.

    A task that gives out the mean of recent rounds (`RoundPolicy.mean_share`) has ``round-0003-mean``, too, and
    ``latest`` leads there.

    What a round gave is known by its hash, from its row in the database: a file that was altered since is not used.
    """

    def __init__(self, root: Path, family: ServedFamily, sessions: sessionmaker[Session]) -> None:
        self._root = root
        self._family = family
        self._sessions = sessions
        initial = family.initial_adapter
        self._references = {0: tensors_reference(0, sha256=initial.sha256, size_bytes=initial.size_bytes)}

    def reference(self, number: int) -> BlobReference:
        """The tensors that the round gave, as a blob.

        Raises:
            QuadloomError: the round has not closed, and nothing was written for it since this server started.
        """
        if number not in self._references:
            self._references[number] = self._recorded(number)
        return self._references[number]

    def tensors_path(self, number: int) -> Path:
        """The file that holds the round's tensors."""
        return self._root / tensors_name(number)

    def read(self, number: int) -> dict[str, FloatArray]:
        """The global parameters after a round, float32, every row of the parameter table.

        Raises:
            QuadloomError: the file is not what the round gave.
        """
        path = checked_file(self.tensors_path(number), self.reference(number).sha256)
        return read_parameters(path, self._family.manifest.parameters, remedy="restore the state folder")

    def read_mean(self, number: int) -> dict[str, FloatArray]:
        """The mean over recent rounds after this one; where there is none, what the round itself gave.

        Raises:
            QuadloomError: the file is missing, or not what was written.
        """
        with self._sessions() as session:
            row = session.get(Round, number)
        if row is None or row.mean_sha256 is None:
            return self.read(number)
        path = checked_file(self._root / tensors_name(number, mean=True), row.mean_sha256)
        return read_parameters(path, self._family.manifest.parameters, remedy="restore the state folder")

    def write_initial(self) -> None:
        """Put the family's adapter in place as round 0, byte by byte, so that it keeps its hash."""
        if not self.tensors_path(0).is_file():
            content = (self._family.folder / self._family.initial_adapter.path).read_bytes()
            self._write(_name(0), content)

    def write(self, number: int, parameters: Mapping[str, FloatArray]) -> BlobReference:
        """Write the round's adapter; writing it again after a crash replaces it."""
        content = tensors_bytes(parameters, FOR_PEFT)
        self._write(_name(number), content)
        sha256 = hashlib.sha256(content).hexdigest()
        self._references[number] = tensors_reference(number, sha256=sha256, size_bytes=len(content))
        return self._references[number]

    def write_mean(self, number: int, parameters: Mapping[str, FloatArray]) -> str:
        """Write the mean over recent rounds and return its SHA-256; again after a crash replaces it."""
        content = tensors_bytes(parameters, FOR_PEFT)
        self._write(_name(number, mean=True), content)
        return hashlib.sha256(content).hexdigest()

    def point_latest(self, number: int, *, mean: bool = False) -> None:
        """Let ``latest`` name this round's folder, without a moment at which it names none.

        Args:
            mean: name the folder of the mean over recent rounds, if there is one.
        """
        folder = self._root / "adapters"
        has_mean = mean and (self._root / tensors_name(number, mean=True)).is_file()
        link = folder / f".{LATEST}{UNFINISHED_SUFFIX}"
        with using(link):
            link.unlink(missing_ok=True)
            link.symlink_to(_name(number, mean=has_mean))
        rename_durably(link, folder / LATEST)

    def _recorded(self, number: int) -> BlobReference:
        """What was written down when the round closed."""
        with self._sessions() as session:
            row = session.get(Round, number)
        if row is None or row.adapter_sha256 is None or row.adapter_size_bytes is None:
            raise QuadloomError(
                f"the database does not know the adapter of round {number}", remedy="restore the state folder"
            )
        return tensors_reference(number, sha256=row.adapter_sha256, size_bytes=row.adapter_size_bytes)

    def _write(self, name: str, tensors: bytes) -> None:
        folder = self._root / "adapters" / name
        make_folder(folder)
        for each in self._family.manifest.adapter:
            if each != self._family.initial_adapter:
                write_atomically(folder / Path(each.path).name, (self._family.folder / each.path).read_bytes())
        # The tensors last: a folder that has them is complete.
        write_atomically(folder / ADAPTER_TENSORS, tensors, half_written="adapter-half-written")


def tensors_name(number: int, *, mean: bool = False) -> str:
    """Path of a round's tensors inside the state folder."""
    return f"adapters/{_name(number, mean=mean)}/{ADAPTER_TENSORS}"


def tensors_reference(number: int, *, sha256: str, size_bytes: int) -> BlobReference:
    """A round's tensors as a blob, from what was written down when the round closed."""
    return BlobReference(path=tensors_name(number), sha256=sha256, size_bytes=size_bytes, media_type=MEDIA_TYPE)


def _name(number: int, *, mean: bool = False) -> str:
    return f"round-{number:04d}{'-mean' if mean else ''}"
