"""Export a family: one folder with every (depth, recompute budget, quantized layers), one copy of the weights and one
manifest.

The manifest is rewritten after every member and names those still missing, so an interrupted export continues where it
stopped: members that the folder already holds under the same settings are kept.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from peft import LoraConfig
from tokenizers import Tokenizer

from quadloom_export.calibration import calibrate, rounding_error
from quadloom_export.formats.select import format_writers
from quadloom_export.formats.writer import BINARY_MEDIA_TYPE, FormatWriter, SharedFiles
from quadloom_export.graph import JointGraph
from quadloom_export.members import export_members, write_single_program
from quadloom_export.model import LoraModel, add_lora, find_layers
from quadloom_export.pipeline import evaluation_graph, training_graph
from quadloom_export.pretrained import load_model
from quadloom_export.provenance import exporter_sha256
from quadloom_export.settings import DEFAULTS, FamilySettings, check_sequence_length, check_settings, member_keys
from quadloom_export.stash_choice import chosen_stash, judged_at, stash_formats
from quadloom_export.tokenizer import load_tokenizer, save_tokenizer
from quadloom_export.weight_only import with_int8_weights
from quadloom_runtime import __version__
from quadloom_runtime.contract.manifest import (
    BatchSpec,
    BlobReference,
    FamilyManifest,
    Format,
    LoraSpec,
    MemberKey,
    MemberSpec,
    ModelSpec,
)
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.engines.installed import installed_formats
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import (
    MANIFEST_NAME,
    blob_reference,
    file_sha256,
    load_manifest,
    save_manifest,
)
from quadloom_runtime.measurement import measure_member

STAGING_NAME = ".staging"
"""Where the shared files wait until it is certain that the folder does not hold another family."""


Progress = Callable[[str], None]


def export_family(
    source: str,
    out: Path,
    settings: FamilySettings = DEFAULTS,
    *,
    replace: bool = False,
    progress: Progress = lambda _line: None,
) -> FamilyManifest:
    """Export `source` (hub id or folder) into the folder `out`.

    Args:
        replace: remove another family that the folder holds; without it that is an error.

    Raises:
        QuadloomError: the model, the settings or what lies in `out` does not allow it; the message says which.
    """
    check_settings(settings)
    progress(f"loading {source}")
    base = load_model(source, settings.task_spec, seed=settings.seed)
    keys = member_keys(settings, layers=len(find_layers(base)))
    check_sequence_length(base, settings.sequence_length)
    tokenizer = load_tokenizer(source, sequence_length=settings.sequence_length)
    description = ModelSpec(
        source=source,
        architecture=type(base).__name__,
        layers=len(find_layers(base)),
        parameters=sum(value.numel() for value in base.parameters()),
    )
    model = add_lora(
        base,
        rank=settings.rank,
        alpha=settings.alpha,
        target_modules=settings.target_modules,
        seed=settings.seed,
        task=settings.task,
    )
    original, model = model, with_int8_weights(model) if settings.weights == "int8" else model
    shape = {"batch_size": settings.batch_size, "sequence_length": settings.sequence_length}
    progress(f"tracing {description.architecture}: {description.layers} layers")
    full, evaluation = training_graph(model, **shape), evaluation_graph(model, **shape)

    writers = format_writers(
        settings.formats,
        {name: value.numpy() for name, value in model.trainable.items()},
        executorch_backend=settings.executorch_backend,
    )
    staging = out / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shared = _write_shared_files(staging, model, tokenizer, full, evaluation, writers)
        manifest = _empty_family(staging, settings, description, model, shared, missing=keys)
        manifest = _take_over_finished(out, manifest, replace=replace)
        _move_files(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    save_manifest(out, manifest)
    calibration = calibrate(
        model, tokenizer, batch_size=settings.batch_size, num_labels=manifest.task.num_labels, seed=settings.seed
    )
    if model is not original and manifest.rounding_error is None:
        manifest = manifest.model_copy(update={"rounding_error": rounding_error(original, calibration)})
        save_manifest(out, manifest)
    budget = manifest.stash.error_budget
    if budget is not None and not manifest.stash.kinds and any(key.quantized_layers for key in keys):
        progress(f"choosing the bits of each stashed tensor within {100 * budget:g} % gradient error")
        manifest = manifest.model_copy(update={"stash": chosen_stash(full, calibration, settings, keys)})
        save_manifest(out, manifest)
    formats = stash_formats(manifest.stash)
    for member in export_members(out, full, writers, calibration, settings, formats, manifest.missing):
        manifest = _with_member(manifest, member)
        save_manifest(out, manifest)
        done, total = len(manifest.members), len(keys)
        error = member.gradient_error
        progress(
            f"[{done}/{total}] {member.key.label}: planned peak {member.planned_peak_bytes / 1e6:.1f} MB, "
            f"gradient error {100 * error.relative_l2:.2f} %, worst cosine {error.worst_cosine:.4f}"
        )
    if settings.measure:
        manifest = _measured(out, manifest, progress)
    if settings.executorch_single_file and manifest.single_file is None:
        progress("writing the single ExecuTorch program")
        manifest = manifest.model_copy(
            update={"single_file": write_single_program(out, full, evaluation, settings, formats, keys)}
        )
        save_manifest(out, manifest)
    return manifest


def save_adapter(model: LoraModel, folder: Path) -> None:
    """Write the initial adapter in PEFT's format.

    PEFT holds the target modules as a set, whose order changes from process to process; sorted, the same export gives
    the same bytes and can be resumed.
    """
    model.module.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    write_atomically(path, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _write_shared_files(
    folder: Path,
    model: LoraModel,
    tokenizer: Tokenizer,
    full: JointGraph,
    evaluation: JointGraph,
    writers: Mapping[Format, FormatWriter],
) -> tuple[SharedFiles, ...]:
    """Write all files but the members."""
    folder.mkdir(parents=True)
    save_adapter(model, folder / "adapter")
    save_tokenizer(tokenizer, folder / "tokenizer")
    return tuple(writer.write_shared(folder, full, evaluation) for writer in writers.values())


def _empty_family(
    folder: Path,
    settings: FamilySettings,
    description: ModelSpec,
    model: LoraModel,
    shared: tuple[SharedFiles, ...],
    *,
    missing: tuple[MemberKey, ...],
) -> FamilyManifest:
    """The manifest of a family whose shared files lie in `folder` and whose members are all missing."""
    lora = model.module.peft_config["default"]
    assert isinstance(lora, LoraConfig)

    def blob(path: str, media_type: str) -> BlobReference:
        return blob_reference(folder, path, media_type=media_type)

    return FamilyManifest(
        quadloom_version=__version__,
        exporter_sha256=exporter_sha256(),
        model=description,
        task=settings.task_spec,
        lora=LoraSpec(
            rank=settings.rank, alpha=settings.alpha, target_modules=tuple(sorted(lora.target_modules or ()))
        ),
        batch=BatchSpec(batch_size=settings.batch_size, sequence_length=settings.sequence_length),
        stash=settings.stash_spec,
        weights=settings.weights,
        dropout=0.0,
        parameters=model.parameters,
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


def _move_files(source: Path, target: Path) -> None:
    for path in [each for each in source.rglob("*") if each.is_file()]:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def _measured(out: Path, manifest: FamilyManifest, progress: Progress) -> FamilyManifest:
    """Measure the members that are not yet; the family is complete by now, so engines can open it."""
    installed = installed_formats()
    for member in [each for each in manifest.members if each.measured_peak_bytes is None]:
        if member.key.format not in installed:
            progress(f"{member.key.label}: not measured, its package is not installed here")
            continue
        found = measure_member(out, member.key)
        figures = {"measured_peak_bytes": found.peak_bytes, "measured_step_s": found.cpu_s}
        members = [each.model_copy(update=figures) if each == member else each for each in manifest.members]
        manifest = manifest.model_copy(update={"members": tuple(members)})
        save_manifest(out, manifest)
        progress(f"{member.key.label}: measured peak {found.peak_bytes / 1e6:.1f} MB, {found.cpu_s:.2f} s a step")
    return manifest


def _take_over_finished(out: Path, planned: FamilyManifest, *, replace: bool) -> FamilyManifest:
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
            planned = _with_member(planned, member)
    planned = planned.model_copy(update={"rounding_error": earlier.rounding_error})
    single = earlier.single_file
    if single is not None and not planned.missing and _is_intact(out, single):
        planned = planned.model_copy(update={"single_file": single})
    return planned


def _is_intact(folder: Path, blob: BlobReference) -> bool:
    path = folder / blob.path
    return path.is_file() and file_sha256(path) == blob.sha256


def _with_member(manifest: FamilyManifest, member: MemberSpec) -> FamilyManifest:
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
