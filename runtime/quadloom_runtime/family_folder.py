"""A family on disk: `family.json` and the files that it names."""

import hashlib
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from quadloom_runtime.contract.manifest import MANIFEST_SCHEMA_VERSION, BlobReference, FamilyManifest
from quadloom_runtime.contract.manifest_rules import first_contradiction
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.strict_json import parse_strict_json

MANIFEST_NAME = "family.json"
SIGNATURE_NAME = "family.json.sig"
LARGEST_MANIFEST_BYTES = 32 << 20
DEEPEST_MANIFEST = 8


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blob_reference(folder: Path, path: str, *, media_type: str) -> BlobReference:
    """Describe the file ``folder/path`` as it lies on disk."""
    full = folder / path
    return BlobReference(path=path, sha256=file_sha256(full), size_bytes=full.stat().st_size, media_type=media_type)


def manifest_bytes(manifest: FamilyManifest) -> bytes:
    """The manifest as it is stored, hashed and sent."""
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def save_manifest(folder: Path, manifest: FamilyManifest) -> None:
    """Write ``family.json`` atomically. A signature stays if the manifest does; one of another content goes."""
    path, content = folder / MANIFEST_NAME, manifest_bytes(manifest)
    if path.is_file() and path.read_bytes() != content:
        (folder / SIGNATURE_NAME).unlink(missing_ok=True)
    write_atomically(path, content)


class InvalidManifestError(QuadloomError):
    """Bytes that are not a manifest, or one that contradicts itself.

    Args:
        source: names the manifest.
        problem: what is wrong with it.
    """

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(
            f"{source} is not a valid family manifest: {problem}",
            remedy="export the family again with `quadloom export`",
        )


def parse_manifest(content: bytes, *, source: str) -> FamilyManifest:
    """Read a manifest from untrusted bytes; `source` names it in errors.

    Raises:
        InvalidManifestError: not a manifest of this schema version.
    """
    try:
        fields = parse_strict_json(content, largest_bytes=LARGEST_MANIFEST_BYTES, deepest=DEEPEST_MANIFEST)
    except ValueError as error:
        raise InvalidManifestError(source, str(error)) from None
    if not isinstance(fields, dict):
        raise InvalidManifestError(source, "it is no object")
    version = fields.get("schema_version")
    if version != MANIFEST_SCHEMA_VERSION:
        raise QuadloomError(
            f"{source} has manifest schema version {repr(version)[:80]}, this program reads {MANIFEST_SCHEMA_VERSION}",
            remedy="export the family again, or use the Quadloom release that wrote it",
        )
    try:
        manifest = FamilyManifest.model_validate_json(content)
    except ValidationError as error:
        raise InvalidManifestError(source, _first_problem(error)) from None
    problem = first_contradiction(manifest)
    if problem is not None:
        raise InvalidManifestError(source, problem)
    return manifest


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    # A name of a field may be anything; only its repr is fit to be shown.
    return f"{place[:200]!r}: {first['msg']}, got {str(first['input'])[:200]!r}"


def load_manifest(folder: Path) -> FamilyManifest:
    """Read ``folder/family.json``.

    Raises:
        QuadloomError: missing or invalid.
    """
    return parse_manifest(read_manifest_file(folder), source=str(folder / MANIFEST_NAME))


def read_manifest_file(folder: Path) -> bytes:
    """The bytes of ``folder/family.json``; of a file that is too large, enough for `parse_manifest` to see it.

    Raises:
        QuadloomError: missing or unreadable.
    """
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise QuadloomError(
            f"no family at {folder}: {path} cannot be read ({error.strerror})",
            remedy="name a folder that `quadloom export --out` wrote",
        ) from None


def altered_files(folder: Path, manifest: FamilyManifest) -> list[str]:
    """Check every file against its hash; returns one sentence per missing or altered file."""
    found = []
    for blob in manifest.blobs():
        path = folder / blob.path
        if _leads_through_a_link(folder, blob.path):
            found.append(f"{blob.path}: a symbolic link, which may lead anywhere")
        elif not path.is_file():
            found.append(f"{blob.path}: missing")
        elif path.stat().st_size != blob.size_bytes:
            found.append(f"{blob.path}: {path.stat().st_size} bytes, manifest says {blob.size_bytes}")
        elif file_sha256(path) != blob.sha256:
            found.append(f"{blob.path}: content altered, SHA-256 differs from the manifest")
    return found


def _leads_through_a_link(folder: Path, path: str) -> bool:
    steps = [PurePosixPath(path), *PurePosixPath(path).parents][:-1]  # the folder itself may be one
    return any((folder / step).is_symlink() for step in steps)
