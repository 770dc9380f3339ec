"""What the parts of a manifest must be to each other; each part by itself is checked by `manifest.py`."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from quadloom_runtime.contract.manifest import BlobReference, FamilyManifest

RESERVED: Final = ("family.json", "family.json.sig")
WINDOWS_DEVICES: Final = frozenset(
    ("con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(1, 10)))
)


def first_contradiction(manifest: FamilyManifest) -> str | None:
    """What is wrong with the manifest as a whole, None if nothing is."""
    return next(_contradictions(manifest), None)


def _contradictions(manifest: FamilyManifest) -> Iterator[str]:
    layers = manifest.model.layers
    formats = [each.format for each in manifest.formats]
    yield from _doubled("the format", formats)
    yield from _doubled("the member", [(each.key.format, each.key.label) for each in manifest.members])
    yield from _doubled("the parameter", [each.name for each in manifest.parameters])
    for used in (*(each.key.format for each in manifest.members), *(each.format for each in manifest.evaluation)):
        if used not in formats:
            yield f"a graph has the format {used}, for which there are no weights"
    for member in manifest.members:
        if member.key.depth > layers:
            yield f"member {member.key.label} is deeper than the model's {layers} layers"
    for row in manifest.parameters:
        if row.layer != "head" and row.layer >= layers:
            yield f"the parameter {row.name!r} lies in layer {row.layer} of {layers}"
    yield from _path_clashes(manifest.every_blob())


def _path_clashes(blobs: Iterable[BlobReference]) -> Iterator[str]:
    """Files that would overwrite each other on some disk, and names that some system keeps for itself."""
    by_name: dict[str, BlobReference] = {}
    for blob in blobs:
        name = blob.path.casefold()
        if by_name.setdefault(name, blob) != blob:
            yield f"the paths {by_name[name].path!r} and {blob.path!r} name different files"
        if name in RESERVED:
            yield f"the path {blob.path!r} is the manifest's own"
        for step in name.split("/"):
            if step.endswith(".") or step.partition(".")[0] in WINDOWS_DEVICES:
                yield f"the path {blob.path!r} is none on every system"
    for name, blob in by_name.items():
        for place in range(len(name)):
            if name[place] == "/" and name[:place] in (*by_name, *RESERVED):
                yield f"the path {blob.path!r} goes through another file"


def _doubled(what: str, names: Iterable[Hashable]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} {name!r} is there {times} times"
