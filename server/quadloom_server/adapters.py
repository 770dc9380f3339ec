"""Every round's adapter as a folder that `PeftModel.from_pretrained` loads."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from quadloom_runtime.adapter_file import read_parameters, tensors_bytes
from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.durable_files import make_folder, using, write_atomically
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.family_folder import blob_reference
from quadloom_server.family import ADAPTER_TENSORS, ServedFamily

MEDIA_TYPE = "application/vnd.safetensors"
LATEST = "latest"
FOR_PEFT = {"format": "pt"}


class AdapterFolders:
    """``root/adapters/round-0003`` per round, round 0 being the initial adapter, and ``latest`` as a link.

    A task that gives out the mean of recent rounds (`RoundPolicy.mean_share`) has ``round-0003-mean``, too, and
    ``latest`` leads there.
    """

    def __init__(self, root: Path, family: ServedFamily) -> None:
        self._root = root
        self._family = family
        self._references: dict[int, BlobReference] = {}

    def reference(self, number: int) -> BlobReference:
        """The round's tensors as a blob, hashed once as they lie on disk."""
        if number not in self._references:
            self._references[number] = blob_reference(self._root, tensors_name(number), media_type=MEDIA_TYPE)
        return self._references[number]

    def tensors_path(self, number: int) -> Path:
        """The file that holds the round's tensors."""
        return self._root / tensors_name(number)

    def read(self, number: int) -> dict[str, FloatArray]:
        """The global parameters after a round, float32, every row of the parameter table."""
        return read_parameters(
            self.tensors_path(number), self._family.manifest.parameters, remedy="restore the state folder"
        )

    def read_mean(self, number: int) -> dict[str, FloatArray]:
        """The mean over recent rounds after this one; where there is none, what the round itself gave."""
        path = self._root / tensors_name(number, mean=True)
        if not path.is_file():
            return self.read(number)
        return read_parameters(path, self._family.manifest.parameters, remedy="restore the state folder")

    def write_initial(self) -> None:
        """Put the family's adapter in place as round 0, byte by byte, so that it keeps its hash."""
        if not self.tensors_path(0).is_file():
            content = (self._family.folder / self._family.initial_adapter.path).read_bytes()
            self._write(_name(0), content)
            self.point_latest(0)

    def write(self, number: int, parameters: Mapping[str, FloatArray]) -> BlobReference:
        """Write the round's adapter; writing it again after a crash replaces it."""
        self._write(_name(number), tensors_bytes(parameters, FOR_PEFT))
        self._references.pop(number, None)
        return self.reference(number)

    def write_mean(self, number: int, parameters: Mapping[str, FloatArray]) -> None:
        """Write the mean over recent rounds; again after a crash replaces it."""
        self._write(_name(number, mean=True), tensors_bytes(parameters, FOR_PEFT))

    def point_latest(self, number: int, *, mean: bool = False) -> None:
        """Let ``latest`` name this round's folder, without a moment at which it names none."""
        folder = self._root / "adapters"
        with using(folder / LATEST), tempfile.TemporaryDirectory(dir=folder, prefix=".latest.") as temporary:
            link = Path(temporary) / LATEST
            link.symlink_to(_name(number, mean=mean))
            link.replace(folder / LATEST)

    def _write(self, name: str, tensors: bytes) -> None:
        folder = self._root / "adapters" / name
        make_folder(folder)
        for each in self._family.manifest.adapter:
            if each != self._family.initial_adapter:
                with using(folder / Path(each.path).name):
                    shutil.copyfile(self._family.folder / each.path, folder / Path(each.path).name)
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
