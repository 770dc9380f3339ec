"""The manifest of a family as it grows: empty, with what an earlier export finished, with member after member."""

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig

from quadloom_export.formats.writer import BINARY_MEDIA_TYPE, SharedFiles
from quadloom_export.provenance import exporter_sha256
from quadloom_export.settings import FamilySettings
from quadloom_export.source import Source
from quadloom_export.stash_choice import judged_at
from quadloom_runtime import __version__
from quadloom_runtime.contract.manifest import (
    BatchSpec,
    BlobReference,
    FamilyManifest,
    LoraSpec,
    MemberKey,
    MemberSpec,
)
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import MANIFEST_NAME, blob_reference, file_sha256, load_manifest


def empty_family(
    folder: Path,
    settings: FamilySettings,
    source: Source,
    shared: Sequence[SharedFiles],
    *,
    missing: tuple[MemberKey, ...],
) -> FamilyManifest:
    """The manifest of a family whose shared files lie in `folder` and whose members are all missing."""
    lora = source.model.module.peft_config["default"]
    assert isinstance(lora, LoraConfig)

    def blob(path: str, media_type: str) -> BlobReference:
        return blob_reference(folder, path, media_type=media_type)

    return FamilyManifest(
        quadloom_version=__version__,
        exporter_sha256=exporter_sha256(),
        model=source.description,
        task=settings.task_spec,
        lora=LoraSpec(
            rank=settings.rank, alpha=settings.alpha, target_modules=tuple(sorted(lora.target_modules or ()))
        ),
        batch=BatchSpec(batch_size=settings.batch_size, sequence_length=settings.sequence_length),
        stash=settings.stash_spec,
        weights=settings.weights,
        dropout=0.0,
        parameters=source.model.parameters,
        formats=tuple(each.format for each in shared),
        members=(),
        evaluation=tuple(each.evaluation for each in shared),
        adapter=(
            blob("adapter/adapter_config.json", "application/json"),
            blob("adapter/adapter_model.safetensors", BINARY_MEDIA_TYPE),
        ),
        tokenizer=(blob("tokenizer/tokenizer.json", "application/json"),),
        missing=missing,
    )


def take_over_finished(out: Path, planned: FamilyManifest, *, replace: bool) -> FamilyManifest:
    """Continue an earlier export of the same family: keep its members whose files are intact.

    Raises:
        QuadloomError: the folder holds another family, which is not to be replaced.
    """
    if not (out / MANIFEST_NAME).exists():
        return planned
    earlier = load_manifest(out)
    asked = earlier.stash.model_copy(update={"kinds": ()})
    bare = {"members": (), "missing": (), "single_file": None, "rounding_error": None}
    same = earlier.model_copy(update={**bare, "stash": asked}) == planned.model_copy(update=bare)
    earlier_keys = (*(member.key for member in earlier.members), *earlier.missing)
    if not same or (earlier.stash.kinds and judged_at(earlier_keys) != judged_at(planned.missing)):
        if not replace:
            raise QuadloomError(
                f"{out} holds a family with other settings or other weights, or of another version of the exporter",
                remedy="name another --out folder, or give --replace to remove what is there",
            )
        (out / MANIFEST_NAME).unlink()
        for blob in earlier.blobs():
            (out / blob.path).unlink(missing_ok=True)
        return planned
    planned = planned.model_copy(update={"stash": earlier.stash})
    for member in earlier.members:
        if member.key in planned.missing and all(_is_intact(out, blob) for blob in (member.graph, *member.companions)):
            planned = with_member(planned, member)
    planned = planned.model_copy(update={"rounding_error": earlier.rounding_error})
    single = earlier.single_file
    if single is not None and not planned.missing and _is_intact(out, single):
        planned = planned.model_copy(update={"single_file": single})
    return planned


def with_member(manifest: FamilyManifest, member: MemberSpec) -> FamilyManifest:
    """The family with one more member, in its place."""
    formats = [each.format for each in manifest.formats]
    members = sorted(
        [*manifest.members, member],
        key=lambda each: (
            each.key.depth,
            each.key.recompute_percent,
            each.key.quantized_layers,
            formats.index(each.key.format),
        ),
    )
    missing = tuple(key for key in manifest.missing if key != member.key)
    return manifest.model_copy(update={"members": tuple(members), "missing": missing})


def _is_intact(folder: Path, blob: BlobReference) -> bool:
    path = folder / blob.path
    return path.is_file() and file_sha256(path) == blob.sha256
