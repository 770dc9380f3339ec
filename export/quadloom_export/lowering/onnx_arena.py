"""Lay the tensors of an ONNX graph out in one arena, and say so in the file.

What makes a graph a bound one (`quadloom_runtime.engines.onnx_arena`) is appended to its file: protobuf joins messages
that stand one after the other, so the file without its end is the graph with its results alone, for whoever cannot bind
outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, StringStringEntryProto
from torch import fx

from quadloom_export.graph import JointGraph, size_bytes, val
from quadloom_export.liveness import lifetimes, overwritten, storage
from quadloom_export.lowering.arena import Tenancy, plan_arena
from quadloom_export.lowering.onnx_emitter import value_info
from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    METADATA_KEY,
    ArenaTable,
    PlacedTensor,
    order_digest,
)

SMALLEST_PLACED_BYTES = 4096
"""Smaller tensors are left to ONNX Runtime: all of them together are less than what it costs to bind them."""


@dataclass
class _Place:
    """A stretch of the arena, for one tensor or several views of it; `first` and `last` are positions in the order."""

    first: int
    last: int
    size_bytes: int

    def tenancy(self) -> Tenancy:
        return Tenancy(self.first, self.last, -(-self.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)


def arena_table(joint: JointGraph, names: Mapping[fx.Node, str], order: Sequence[NodeProto]) -> ArenaTable:
    """Place every large tensor and every result of a graph.

    Args:
        names: ONNX value per node; of a result, its output name.
        order: the ONNX nodes as they will run.
    """
    places = _places(joint)
    made = {name for node in order for name in node.output}
    tensors = {names[node]: (node, place) for node, place in places.items() if names[node] in made}
    end = len(joint.nodes)
    for output, node in joint.results.items():
        if output not in tensors:
            is_copy = names[node] != output  # of an input or of another result, made at the end
            # A view lies where its source does, unless that is an input: then it is written where it stands.
            own = _Place(end if is_copy else 0, end, size_bytes(node))
            tensors[output] = node, own if is_copy else places.get(storage(node), own)
    distinct = list({id(place): place for _, place in tensors.values()}.values())
    arena = plan_arena([place.tenancy() for place in distinct])
    offsets = dict(zip(map(id, distinct), arena.offsets, strict=True))
    return ArenaTable(
        batch_size=joint.batch_size,
        size_bytes=arena.size_bytes,
        order_sha256=order_digest(node.name for node in order),
        tensors=tuple(
            PlacedTensor(
                name=name,
                dtype=str(val(node).dtype).removeprefix("torch."),  # type: ignore[arg-type]  # pydantic checks it
                shape=_shape(node),
                offset=offsets[id(place)],
            )
            for name, (node, place) in tensors.items()
        ),
    )


def bound_part(joint: JointGraph, names: Mapping[fx.Node, str], table: ArenaTable) -> ModelProto:
    """What to append to the file: the placed tensors as outputs, and the table."""
    nodes = {name: node for node, name in names.items()}
    outputs = [value_info(each.name, nodes[each.name]) for each in table.tensors if each.name not in joint.outputs]
    return ModelProto(
        graph=GraphProto(output=outputs),
        metadata_props=[StringStringEntryProto(key=METADATA_KEY, value=table.to_json())],
    )


def _places(joint: JointGraph) -> dict[fx.Node, _Place]:
    """The place of each tensor that is large or a result, or that a result is a view of."""
    owner, end = overwritten(joint), len(joint.nodes)
    results = {owner.get(each, each) for each in map(storage, joint.results.values())}
    places: dict[fx.Node, _Place] = {}
    for position, (made, dying) in enumerate(lifetimes(joint)):
        for node, size in made:
            if size >= SMALLEST_PLACED_BYTES or node in results:
                places[node] = _Place(position, end, size)
        for node in dying:
            if node in places:
                places[node].last = position
    return places | {node: places[each] for node, each in owner.items() if each in places}


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Sizes, those that grow with the batch as minus the number per example."""
    return tuple(
        size if size == more else size - more
        for size, more in zip(val(node).shape, node.meta["twin"].shape, strict=True)
    )
