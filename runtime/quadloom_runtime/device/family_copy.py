"""A device's partial copy of a family: the files of its assignments, fetched once and checked before each use."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quadloom_runtime.adapter_file import largest_tensors_bytes
from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import BlobReference, FamilyManifest
from quadloom_runtime.contract.wire import Assignment, EnrolResponse
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import LARGEST_MANIFEST_BYTES, parse_manifest
from quadloom_runtime.family_signature import verify_manifest


class WrongFilesError(QuadloomError):
    """An assignment that would have other files used than those of the manifest's member."""


@dataclass(frozen=True)
class FamilyCopy:
    """Files laid out as the family's in `folder`, where graphs find the weights beside them; `cache` holds them.

    Attributes:
        family_key: whose signature a family must have, None for no matter who made it.
    """

    folder: Path
    cache: BlobCache
    client: ServerClient
    events: EventLog
    family_key: Ed25519PublicKey | None = None

    def manifest(self, answer: EnrolResponse | Assignment) -> FamilyManifest:
        """The manifest that an answer names.

        Raises:
            UnsignedFamilyError, AlteredFamilyError: nobody who is trusted vouches for it; nothing of it was read.
            QuadloomError: the server does not send it, or it is not valid.
        """
        sha256 = answer.manifest_sha256
        self._bring(sha256, name="the manifest", largest_bytes=LARGEST_MANIFEST_BYTES)
        content, source = self.cache.path(sha256).read_bytes(), "the server's manifest"
        if self.family_key is not None:
            verify_manifest(content, answer.manifest_signature, self.family_key, source=source)
        return parse_manifest(content, source=source)

    def size_here(self, assignment: Assignment) -> int:
        """Bytes of the assignment's files that are here, those of unfinished downloads included."""
        hashes = {assignment.manifest_sha256, assignment.adapter.sha256, *(each.sha256 for each in assignment.blobs)}
        return sum(self.cache.size_here(each) for each in hashes)

    def fetch(self, assignment: Assignment) -> FamilyManifest:
        """Bring every file of the assignment here.

        Raises:
            WrongFilesError: the assignment names files that are not the manifest's.
            QuadloomError: the server refuses one, or sends another content.
        """
        manifest = self.manifest(assignment)
        _check_files(assignment, manifest)
        self._forget_others(assignment, manifest)
        for blob in assignment.blobs:
            self._bring(blob.sha256, name=blob.path, largest_bytes=blob.size_bytes)
        # Nobody has signed what the assignment says of its adapter, so its size is not believed.
        largest_bytes = largest_tensors_bytes(manifest.parameters)
        self._bring(assignment.adapter.sha256, name=assignment.adapter.path, largest_bytes=largest_bytes)
        for blob in assignment.blobs:
            self.cache.link_into(self.folder, blob)
        return manifest

    def _forget_others(self, assignment: Assignment, manifest: FamilyManifest) -> None:
        """Keep of what is here only what is the family's, other members included, and this round's adapter.

        After kills there may be adapters of earlier rounds, and files of a family that is served no more.
        """
        of_family = {blob.sha256 for blob in manifest.blobs()}
        self.cache.keep_only({assignment.manifest_sha256, assignment.adapter.sha256} | of_family)

    def _bring(self, sha256: str, *, name: str, largest_bytes: int) -> None:
        if not self.cache.holds(sha256):
            self.events.say("downloading", f"downloading {name}", name=name, sha256=sha256)
            self.client.download(sha256, self.cache, largest_bytes=largest_bytes)


def _check_files(assignment: Assignment, manifest: FamilyManifest) -> None:
    """Only the manifest says which files make a member: it may be signed, an assignment is not."""
    member = next((each for each in manifest.members if each.key == assignment.member), None)
    if member is None:
        raise QuadloomError(
            f"the manifest has no member {assignment.member.label}", remedy="check the server and its family"
        )
    if set(assignment.blobs) != set(manifest.files_for(member)):
        named = ", ".join(sorted(each.path for each in assignment.blobs))
        raise WrongFilesError(
            f"the assignment names other files than the manifest has for {member.key.label}: {named[:300]}",
            remedy="do not trust this server before its owner can say why",
        )


def tokenizer_blob(manifest: FamilyManifest) -> BlobReference:
    """The file that the tokenizer is read from.

    Raises:
        QuadloomError: the family names none.
    """
    for blob in manifest.tokenizer:
        if Path(blob.path).name == "tokenizer.json":
            return blob
    raise QuadloomError("the family names no tokenizer.json", remedy="export the family again")
