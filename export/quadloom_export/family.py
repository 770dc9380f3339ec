"""Export a family: one folder with every (depth, recompute budget, quantized layers), one copy of the weights and one
manifest.

The manifest is rewritten after every member and names those still missing, so an interrupted export continues where it
stopped: members that the folder already holds under the same settings are kept.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from quadloom_export.calibration import calibrate, rounding_error
from quadloom_export.family_manifest import empty_family, take_over_finished, with_member
from quadloom_export.formats.select import format_writers
from quadloom_export.formats.writer import FormatWriter, SharedFiles
from quadloom_export.graph import JointGraph
from quadloom_export.members import export_members, write_single_program
from quadloom_export.model import LoraModel
from quadloom_export.pipeline import evaluation_graph, training_graph
from quadloom_export.settings import DEFAULTS, FamilySettings, check_settings, member_keys
from quadloom_export.source import Progress, Source, load_source
from quadloom_export.stash_choice import chosen_stash, stash_formats
from quadloom_export.tokenizer import save_tokenizer
from quadloom_runtime.contract.manifest import FamilyManifest, Format, MemberSpec
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.engines.installed import installed_formats
from quadloom_runtime.family_folder import save_manifest
from quadloom_runtime.measurement import StepMeasurement, measure_member

STAGING_NAME = ".staging"
"""Where the shared files wait until it is certain that the folder does not hold another family."""
MEASUREMENTS = 3
"""Of every member, one round after the other."""


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
    loaded = load_source(source, settings, progress)
    keys = member_keys(settings, layers=loaded.description.layers)
    progress(f"tracing {loaded.description.architecture}: {loaded.description.layers} layers")
    shape = {"batch_size": settings.batch_size, "sequence_length": settings.sequence_length}
    full, evaluation = training_graph(loaded.model, **shape), evaluation_graph(loaded.model, **shape)
    writers = format_writers(
        settings.formats,
        {name: value.numpy() for name, value in loaded.model.trainable.items()},
        executorch_backend=settings.executorch_backend,
    )

    def saved(manifest: FamilyManifest, **changes: object) -> FamilyManifest:
        found = manifest.model_copy(update=changes)
        save_manifest(out, found)
        return found

    staging = out / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shared = _write_shared_files(staging, loaded, full, evaluation, writers)
        manifest = empty_family(staging, settings, loaded, shared, missing=keys)
        manifest = take_over_finished(out, manifest, replace=replace)
        _move_files(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    manifest = saved(manifest)
    calibration = calibrate(
        loaded.model,
        loaded.tokenizer,
        batch_size=settings.batch_size,
        num_labels=manifest.task.num_labels,
        seed=settings.seed,
    )
    if loaded.rounded and manifest.rounding_error is None:
        manifest = saved(manifest, rounding_error=rounding_error(loaded.unrounded, calibration))
    budget = manifest.stash.error_budget
    if budget is not None and not manifest.stash.kinds and any(key.quantized_layers for key in keys):
        progress(f"choosing the bits of each stashed tensor within {100 * budget:g} % gradient error")
        manifest = saved(manifest, stash=chosen_stash(full, calibration, settings, keys))
    formats = stash_formats(manifest.stash)
    for member in export_members(out, full, writers, calibration, settings, formats, manifest.missing):
        manifest = saved(with_member(manifest, member))
        progress(f"[{len(manifest.members)}/{len(keys)}] {_in_words(member)}")
    if settings.measure:
        manifest = _measured(out, manifest, progress)
    if settings.executorch_single_file and manifest.single_file is None:
        progress("writing the single ExecuTorch program")
        manifest = saved(manifest, single_file=write_single_program(out, full, evaluation, settings, formats, keys))
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
    source: Source,
    full: JointGraph,
    evaluation: JointGraph,
    writers: Mapping[Format, FormatWriter],
) -> tuple[SharedFiles, ...]:
    """Write all files but the members."""
    folder.mkdir(parents=True)
    save_adapter(source.model, folder / "adapter")
    save_tokenizer(source.tokenizer, folder / "tokenizer")
    return tuple(writer.write_shared(folder, full, evaluation) for writer in writers.values())


def _move_files(source: Path, target: Path) -> None:
    for path in [each for each in source.rglob("*") if each.is_file()]:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def _measured(out: Path, manifest: FamilyManifest, progress: Progress) -> FamilyManifest:
    """Measure the members that are not yet; the family is complete by now, so engines can open it.

    Several times over, all members each time: a machine that others share has slow spells, and one that outlasts a
    measurement would make a single member look slow.
    """
    installed = installed_formats()
    wanted = [each.key for each in manifest.members if each.measured_peak_bytes is None]
    for key in [each for each in wanted if each.format not in installed]:
        progress(f"{key.label}: not measured, its package is not installed here")
    for time in range(1, MEASUREMENTS + 1):
        for key in [each for each in wanted if each.format in installed]:
            found = measure_member(out, key)
            members = [_with_measurement(each, found) if each.key == key else each for each in manifest.members]
            manifest = manifest.model_copy(update={"members": tuple(members)})
            save_manifest(out, manifest)
            progress(
                f"{key.label}: measured peak {found.peak_bytes / 1e6:.1f} MB, {found.cpu_s:.2f} s a step "
                f"({time} of {MEASUREMENTS})"
            )
    return manifest


def _with_measurement(member: MemberSpec, found: StepMeasurement) -> MemberSpec:
    """The largest peak and the quickest step of all its measurements."""
    peak_bytes, step_s = member.measured_peak_bytes, member.measured_step_s
    figures = {
        "measured_peak_bytes": found.peak_bytes if peak_bytes is None else max(peak_bytes, found.peak_bytes),
        "measured_step_s": found.cpu_s if step_s is None else min(step_s, found.cpu_s),
    }
    return member.model_copy(update=figures)


def _in_words(member: MemberSpec) -> str:
    error = member.gradient_error
    return (
        f"{member.key.label}: planned peak {member.planned_peak_bytes / 1e6:.1f} MB, "
        f"gradient error {100 * error.relative_l2:.2f} %, worst cosine {error.worst_cosine:.4f}"
    )
