"""Export a family: one folder with every (depth, quantized layers), one copy of the weights, one manifest.

The manifest is rewritten after every member and names those still missing, so an interrupted export continues where it
stopped: members that the folder already holds under the same settings are kept.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from peft import LoraConfig
from tokenizers import Tokenizer

from quadloom_export.calibration import Calibration, calibrate, gradient_error
from quadloom_export.graph import JointGraph
from quadloom_export.liveness import plan_memory
from quadloom_export.lowering.onnx import (
    IR_VERSION,
    OPSET,
    WEIGHTS_NAME,
    input_specs,
    lower_to_onnx,
    output_specs,
    save_onnx,
    weight_tensors,
)
from quadloom_export.lowering.onnx_arena import planned_arena_bytes
from quadloom_export.lowering.weights import WeightEntry, write_weights
from quadloom_export.model import LoraModel, add_lora, find_layers
from quadloom_export.operations import multiply_adds
from quadloom_export.passes.quantize import StashFormat, quantized_elements
from quadloom_export.passes.stash import stash_bytes
from quadloom_export.pipeline import at_depth, at_quantization, evaluation_graph, training_graph
from quadloom_export.pretrained import load_model
from quadloom_export.settings import DEFAULTS, FamilySettings, check_sequence_length, check_settings, member_keys
from quadloom_export.tokenizer import load_tokenizer, save_tokenizer
from quadloom_runtime import __version__
from quadloom_runtime.contract.manifest import (
    BatchSpec,
    BlobReference,
    EvaluationSpec,
    FamilyManifest,
    FormatSpec,
    LoraSpec,
    MemberKey,
    MemberSpec,
    ModelSpec,
    StashSpec,
)
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.engines.onnx import OnnxTrainingEngine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import (
    MANIFEST_NAME,
    blob_reference,
    file_sha256,
    load_manifest,
    save_manifest,
)

WEIGHTS_PATH = f"onnx/{WEIGHTS_NAME}"
EVALUATION_PATH = "onnx/eval.onnx"
ONNX_MEDIA_TYPE = "application/onnx"
BINARY_MEDIA_TYPE = "application/octet-stream"
STAGING_NAME = ".staging"
"""Where the shared files wait until it is certain that the folder does not hold another family."""
LARGEST_EXACT_ERROR = 1e-4
"""Gradient error against PyTorch eager beyond which an unquantized member is wrong, not imprecise."""


Progress = Callable[[str], None]


def export_family(
    source: str,
    out: Path,
    settings: FamilySettings = DEFAULTS,
    *,
    progress: Progress = lambda _line: None,
) -> FamilyManifest:
    """Export `source` (hub id or folder) into the folder `out`.

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
    shape = {"batch_size": settings.batch_size, "sequence_length": settings.sequence_length}
    progress(f"tracing {description.architecture}: {description.layers} layers")
    full, evaluation = training_graph(model, **shape), evaluation_graph(model, **shape)

    staging = out / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    try:
        entries = _write_shared_files(staging, model, tokenizer, full, evaluation)
        manifest = _empty_family(staging, settings, description, model, evaluation, missing=keys)
        manifest = _take_over_finished(out, manifest)
        _move_files(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    save_manifest(out, manifest)
    calibration = calibrate(
        model, tokenizer, batch_size=settings.batch_size, num_labels=manifest.task.num_labels, seed=settings.seed
    )
    stash_format = StashFormat(bits=settings.bits, group_size=settings.group_size)
    for member in _export_members(out, full, entries, calibration, stash_format, manifest.missing):
        manifest = _with_member(manifest, member)
        save_manifest(out, manifest)
        done, total = len(manifest.members), len(keys)
        error = member.gradient_error
        progress(
            f"[{done}/{total}] {member.key.label}: planned peak {member.planned_peak_bytes / 1e6:.1f} MB, "
            f"gradient error {100 * error.relative_l2:.2f} %, worst cosine {error.worst_cosine:.4f}"
        )
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
    folder: Path, model: LoraModel, tokenizer: Tokenizer, full: JointGraph, evaluation: JointGraph
) -> dict[str, WeightEntry]:
    """Write all files but the members; returns where each weight lies."""
    (folder / "onnx").mkdir(parents=True)
    save_adapter(model, folder / "adapter")
    save_tokenizer(tokenizer, folder / "tokenizer")
    entries = write_weights(folder / WEIGHTS_PATH, weight_tensors(full, evaluation))
    save_onnx(lower_to_onnx(evaluation, entries), folder / EVALUATION_PATH)
    return entries


def _empty_family(
    folder: Path,
    settings: FamilySettings,
    description: ModelSpec,
    model: LoraModel,
    evaluation: JointGraph,
    *,
    missing: tuple[MemberKey, ...],
) -> FamilyManifest:
    """The manifest of a family whose shared files lie in `folder` and whose members are all missing."""
    lora = model.module.peft_config["default"]
    assert isinstance(lora, LoraConfig)

    def blob(path: str, media_type: str) -> BlobReference:
        return blob_reference(folder, path, media_type=media_type)

    weights = blob(WEIGHTS_PATH, BINARY_MEDIA_TYPE)
    return FamilyManifest(
        quadloom_version=__version__,
        model=description,
        task=settings.task_spec,
        lora=LoraSpec(
            rank=settings.rank, alpha=settings.alpha, target_modules=tuple(sorted(lora.target_modules or ()))
        ),
        batch=BatchSpec(batch_size=settings.batch_size, sequence_length=settings.sequence_length),
        stash=StashSpec(bits=settings.bits, group_size=settings.group_size),  # type: ignore[arg-type]  # checked before
        dropout=0.0,
        parameters=model.parameters,
        formats=(FormatSpec(format="onnx", weights=weights, versions={"opset": OPSET, "ir": IR_VERSION}),),
        members=(),
        evaluation=(
            EvaluationSpec(
                format="onnx",
                graph=blob(EVALUATION_PATH, ONNX_MEDIA_TYPE),
                planned_peak_bytes=planned_arena_bytes(evaluation),
                inputs=input_specs(evaluation),
                outputs=output_specs(evaluation),
            ),
        ),
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


def _export_members(
    out: Path,
    full: JointGraph,
    entries: dict[str, WeightEntry],
    calibration: Calibration,
    stash_format: StashFormat,
    keys: tuple[MemberKey, ...],
) -> Iterator[MemberSpec]:
    depth_graph: JointGraph | None = None
    for key in keys:
        if depth_graph is None or depth_graph.depth != key.depth:
            depth_graph = at_depth(full, key.depth)
        graph = at_quantization(depth_graph, key.quantized_layers, stash_format)
        yield _export_member(out, key, depth_graph, graph, entries, calibration)


def _export_member(
    out: Path,
    key: MemberKey,
    unquantized: JointGraph,
    graph: JointGraph,
    entries: dict[str, WeightEntry],
    calibration: Calibration,
) -> MemberSpec:
    path = f"onnx/train-{key.label}.onnx"
    save_onnx(lower_to_onnx(graph, entries), out / path)
    inputs, outputs = input_specs(graph), output_specs(graph)
    engine = OnnxTrainingEngine(out / path, inputs=inputs, outputs=outputs, label=key.label)
    found = engine.step(calibration.parameters, calibration.batch).gradients
    trained = tuple(row for row in graph.parameters if row.layer == "head" or row.layer >= graph.layers - key.depth)
    error = gradient_error(calibration.gradients, found, trained)
    if key.quantized_layers == 0 and error.relative_l2 > LARGEST_EXACT_ERROR:
        raise QuadloomError(
            f"the exported graph of member {key.label} disagrees with PyTorch: relative gradient error "
            f"{error.relative_l2:.2e}, worst at {error.worst_tensor}",
            remedy="report the model: a pass or a translation is wrong for it",
        )
    return MemberSpec(
        key=key,
        graph=blob_reference(out, path, media_type=ONNX_MEDIA_TYPE),
        planned_peak_bytes=planned_arena_bytes(graph),
        stash_bytes_before=stash_bytes(unquantized),
        stash_bytes_after=stash_bytes(graph),
        weight_bytes=sum(entries[name].size_bytes for name in graph.inputs_of("frozen")),
        forward_operations=multiply_adds(graph, phase="forward"),
        backward_operations=multiply_adds(graph, phase="backward"),
        quantized_elements=quantized_elements(graph),
        gradient_error=error,
        inputs=inputs,
        outputs=outputs,
        peak_items=plan_memory(graph).items,
    )


def _take_over_finished(out: Path, planned: FamilyManifest) -> FamilyManifest:
    """Continue an earlier export of the same family: keep its members whose files are intact.

    Raises:
        QuadloomError: the folder holds another family.
    """
    if not (out / MANIFEST_NAME).exists():
        return planned
    earlier = load_manifest(out)
    bare = {"members": (), "missing": ()}
    if earlier.model_copy(update=bare) != planned.model_copy(update=bare):
        raise QuadloomError(
            f"{out} holds a family with other settings or other weights",
            remedy="name another --out folder, or remove this one first",
        )
    for member in earlier.members:
        path = out / member.graph.path
        if member.key in planned.missing and path.is_file() and file_sha256(path) == member.graph.sha256:
            planned = _with_member(planned, member)
    return planned


def _with_member(manifest: FamilyManifest, member: MemberSpec) -> FamilyManifest:
    members = sorted([*manifest.members, member], key=lambda each: (each.key.depth, each.key.quantized_layers))
    missing = tuple(key for key in manifest.missing if key != member.key)
    return manifest.model_copy(update={"members": tuple(members), "missing": missing})
