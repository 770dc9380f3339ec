"""The family that a server serves, checked when it starts."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.contract.manifest import BlobReference, FamilyManifest, MemberKey, MemberSpec
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import MANIFEST_NAME, altered_files, parse_manifest, read_manifest_file
from quadloom_runtime.family_signature import read_signature

ADAPTER_TENSORS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ServedFamily:
    """A family folder with the manifest as it was read at start.

    Attributes:
        content: the bytes of the manifest; its SHA-256 is what devices fetch it by.
        signature: what vouches for `content` to devices that hold the key, None if nobody signed it.
        warnings: what a person should know before relying on it.
    """

    folder: Path
    manifest: FamilyManifest
    content: bytes
    signature: str | None
    warnings: tuple[str, ...]

    @cached_property
    def manifest_sha256(self) -> str:
        """Under which devices fetch the manifest."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def identity(self) -> str:
        """What must stay the same for a server's state to stay meaningful; members may be added or exported again."""
        fixed = self.manifest.model_dump_json(include={"model", "task", "lora", "parameters", "adapter"})
        return hashlib.sha256(fixed.encode()).hexdigest()

    @property
    def initial_adapter(self) -> BlobReference:
        """The tensors that training starts from."""
        return next(each for each in self.manifest.adapter if Path(each.path).name == ADAPTER_TENSORS)

    def member(self, key: MemberKey) -> MemberSpec | None:
        """The member of this key, None when the family does not hold it."""
        return next((each for each in self.manifest.members if each.key == key), None)


def open_family(folder: Path) -> ServedFamily:
    """Read a family and check every file against its hash.

    Raises:
        QuadloomError: no manifest, a missing or altered file, no member, or an initial adapter that does not match the
            parameter table.
    """
    content = read_manifest_file(folder)
    manifest = parse_manifest(content, source=str(folder / MANIFEST_NAME))
    problems = altered_files(folder, manifest)
    if problems:
        raise QuadloomError(
            f"the family at {folder} is damaged: {'; '.join(problems)}",
            remedy="export it again, or restore the files; `quadloom inspect DIR --verify` checks them",
        )
    if not manifest.members:
        raise QuadloomError(f"the family at {folder} has no member to train", remedy="let `quadloom export` finish")
    if not any(Path(each.path).name == ADAPTER_TENSORS for each in manifest.adapter):
        raise QuadloomError(f"the family at {folder} names no {ADAPTER_TENSORS}", remedy="export the family again")
    family = ServedFamily(folder, manifest, content, read_signature(folder), _warnings(manifest))
    read_parameters(folder / family.initial_adapter.path, manifest.parameters, remedy="export the family again")
    return family


def _warnings(manifest: FamilyManifest) -> tuple[str, ...]:
    if not manifest.missing:
        return ()
    labels = ", ".join(key.label for key in manifest.missing)
    return (f"the family is incomplete, {len(manifest.missing)} members cannot be assigned: {labels}",)
