"""A device's partial copy of a family: the files of its assignments, fetched once and checked before each use."""

from dataclasses import dataclass
from pathlib import Path

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import BlobReference, FamilyManifest
from quadloom_runtime.contract.wire import Assignment
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import parse_manifest


@dataclass(frozen=True)
class FamilyCopy:
    """Files laid out as the family's in `folder`, where graphs find the weights beside them; `cache` holds them."""

    folder: Path
    cache: BlobCache
    client: ServerClient
    events: EventLog

    def manifest(self, sha256: str) -> FamilyManifest:
        """The manifest of this hash."""
        self._bring(sha256, name="the manifest")
        return parse_manifest(self.cache.path(sha256).read_bytes(), source="the server's manifest")

    def size_here(self, assignment: Assignment) -> int:
        """Bytes of the assignment's files that are here, those of unfinished downloads included."""
        hashes = {assignment.manifest_sha256, assignment.adapter.sha256, *(each.sha256 for each in assignment.blobs)}
        return sum(self.cache.size_here(each) for each in hashes)

    def fetch(self, assignment: Assignment) -> FamilyManifest:
        """Bring every file of the assignment here.

        Raises:
            QuadloomError: the server refuses one, or sends another content.
        """
        manifest = self.manifest(assignment.manifest_sha256)
        for blob in (*assignment.blobs, assignment.adapter):
            self._bring(blob.sha256, name=blob.path)
        for blob in assignment.blobs:
            self.cache.link_into(self.folder, blob)
        return manifest

    def _bring(self, sha256: str, *, name: str) -> None:
        if not self.cache.holds(sha256):
            self.events.say("downloading", f"downloading {name}", name=name, sha256=sha256)
            self.client.download(sha256, self.cache)


def tokenizer_blob(manifest: FamilyManifest) -> BlobReference:
    """The file that the tokenizer is read from.

    Raises:
        QuadloomError: the family names none.
    """
    for blob in manifest.tokenizer:
        if Path(blob.path).name == "tokenizer.json":
            return blob
    raise QuadloomError("the family names no tokenizer.json", remedy="export the family again")
