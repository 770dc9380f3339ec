"""Making the members of a family: graphs, files and gradient errors."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from quadloom_export.calibration import Calibration, gradient_error
from quadloom_export.formats.writer import FormatWriter
from quadloom_export.graph import JointGraph
from quadloom_export.liveness import plan_memory
from quadloom_export.operations import multiply_adds
from quadloom_export.passes.quantize import StashFormats, quantized_elements
from quadloom_export.passes.stash import stash_bytes
from quadloom_export.pipeline import at_depth, at_quantization
from quadloom_export.settings import FamilySettings
from quadloom_runtime.contract.manifest import BlobReference, Format, MemberKey, MemberSpec
from quadloom_runtime.errors import QuadloomError

LARGEST_EXACT_ERROR = 1e-4
"""Gradient error against PyTorch eager beyond which an unquantized member is wrong, not imprecise."""


def export_members(
    out: Path,
    full: JointGraph,
    writers: Mapping[Format, FormatWriter],
    calibration: Calibration,
    settings: FamilySettings,
    formats: StashFormats,
    keys: tuple[MemberKey, ...],
) -> Iterator[MemberSpec]:
    """Write the members one by one.

    Raises:
        QuadloomError: a graph does not compute the gradients of PyTorch.
    """
    for key, unquantized, graph in _graphs(full, settings, formats, keys):
        yield _export_member(out, key, unquantized, graph, writers[key.format], calibration)


def _graphs(
    full: JointGraph, settings: FamilySettings, formats: StashFormats, keys: Iterable[MemberKey]
) -> Iterator[tuple[MemberKey, JointGraph, JointGraph]]:
    """Key, unquantized graph of its depth and budget, and graph of each member; `keys` come as from `member_keys`."""
    for (depth, percent), of_budget in groupby(keys, key=lambda key: (key.depth, key.recompute_percent)):
        graph_of_budget = at_depth(full, depth, recompute=percent / 100)
        unquantized = at_quantization(graph_of_budget, 0, formats)
        for (count, even), of_graph in groupby(of_budget, key=lambda key: (key.quantized_layers, _in_even_shares(key))):
            graph = at_quantization(graph_of_budget, count, formats, row_chunks=settings.row_chunks, even=even)
            yield from ((key, unquantized, graph) for key in of_graph)


def _in_even_shares(key: MemberKey) -> bool:
    """Whether the room for fewer shares is not what `fewest_row_chunks` counts.

    ExecuTorch's products pack rows beside the arena, the more the more there are, and onnxruntime-training does not
    write over operands.
    """
    return key.format != "onnx"


def write_single_program(
    out: Path,
    full: JointGraph,
    evaluation: JointGraph,
    settings: FamilySettings,
    formats: StashFormats,
    keys: tuple[MemberKey, ...],
) -> BlobReference:
    """Write the one ExecuTorch program that holds every member, the evaluation and the weights."""
    from quadloom_export.formats.executorch import write_single_file
    from quadloom_export.lowering.executorch_single import EVALUATION_METHOD, method_name

    wanted = [key for key in keys if key.format == "executorch"]
    graphs = {method_name(key): graph for key, _, graph in _graphs(full, settings, formats, wanted)}
    return write_single_file(out, {**graphs, EVALUATION_METHOD: evaluation}, backend=settings.executorch_backend)


def _export_member(
    out: Path,
    key: MemberKey,
    unquantized: JointGraph,
    graph: JointGraph,
    writer: FormatWriter,
    calibration: Calibration,
) -> MemberSpec:
    files = writer.write_member(out, key, graph)
    engine = writer.open_member(out, key, graph, files)
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
        graph=files.graph,
        companions=files.companions,
        arena_bytes=files.arena_bytes,
        planned_peak_bytes=files.planned_peak_bytes,
        stash_bytes_before=stash_bytes(unquantized),
        stash_bytes_after=stash_bytes(graph),
        weight_bytes=graph.weight_bytes,
        forward_operations=multiply_adds(graph, phase="forward"),
        backward_operations=multiply_adds(graph, phase="backward"),
        quantized_elements=quantized_elements(graph),
        row_chunks=graph.row_chunks,
        gradient_error=error,
        inputs=files.inputs,
        outputs=files.outputs,
        peak_items=plan_memory(graph, in_place=key.format != "ort-training").items,
    )
