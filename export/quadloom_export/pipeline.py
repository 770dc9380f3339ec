"""The order of the passes, in one place: recording -> full-depth graph -> depth -> member."""

from collections.abc import Mapping

from quadloom_export.graph import JointGraph
from quadloom_export.model import LoraModel
from quadloom_export.passes.activation import plain_gelu, save_gelu_derivative
from quadloom_export.passes.gate import save_gate_slope
from quadloom_export.passes.matmuls import fuse_matmuls
from quadloom_export.passes.needed_rows import compute_needed_rows
from quadloom_export.passes.order import delay
from quadloom_export.passes.quantize import StashFormats, quantize_stash
from quadloom_export.passes.recompute import recompute_products
from quadloom_export.passes.rematerialize import rematerialize
from quadloom_export.passes.reuse import reuse
from quadloom_export.passes.row_chunk_choice import fewest_row_chunks
from quadloom_export.passes.row_chunks import split_rows
from quadloom_export.passes.shared_heads import share_heads
from quadloom_export.passes.simplify import simplify
from quadloom_export.passes.stash import save_bases_only
from quadloom_export.passes.trim import trim
from quadloom_export.passes.weight_only import delay_weight_copies, store_int8_weights
from quadloom_export.trace import trace_evaluation, trace_training


def training_graph(model: LoraModel, *, batch_size: int, sequence_length: int) -> JointGraph:
    """The joint graph of full depth, traced once for all members."""
    lean = made_lean(trace_training(model, batch_size=batch_size, sequence_length=sequence_length))
    return store_int8_weights(lean, model.int8_weights)


def evaluation_graph(model: LoraModel, *, batch_size: int, sequence_length: int) -> JointGraph:
    """The forward graph."""
    lean = made_lean(trace_evaluation(model, batch_size=batch_size, sequence_length=sequence_length))
    return store_int8_weights(lean, model.int8_weights)


def made_lean(recording: JointGraph) -> JointGraph:
    """A recording without what nobody needs, in the operators that the later passes expect."""
    return share_heads(fuse_matmuls(compute_needed_rows(simplify(recording))))


def at_depth(full: JointGraph, depth: int, *, recompute: float = 0.0) -> JointGraph:
    """The graph that trains the last `depth` layers, on the way to its members.

    Args:
        recompute: see `rematerialize`.
    """
    lean = save_bases_only(save_gate_slope(save_gelu_derivative(trim(full, depth=depth))))
    return plain_gelu(rematerialize(lean, budget=recompute))


def at_quantization(
    graph: JointGraph, quantized_layers: int, formats: StashFormats, *, row_chunks: int = 1, even: bool = True
) -> JointGraph:
    """The member of `graph`'s depth that quantizes the stash of `quantized_layers` layers.

    Products are recomputed in the other layers only: from quantized factors they would be less precise than when they
    are quantized themselves, since a norm's weights damp the outliers of its input.

    Args:
        row_chunks: shares of rows in a layer, see `split_rows`.
        even: whether every layer has so many; otherwise those with room have fewer, see `fewest_row_chunks`.
    """

    def in_shares(chunks: Mapping[int, int]) -> JointGraph:
        parted = split_rows(graph, chunks=chunks)
        quantized = quantize_stash(parted, quantized_layers=quantized_layers, formats=formats)
        return delay_weight_copies(delay(recompute_products(quantized)))

    if even:
        return reuse(in_shares(dict.fromkeys(range(graph.layers), row_chunks)))
    return reuse(fewest_row_chunks(in_shares, layers=graph.layers, at_most=row_chunks))
