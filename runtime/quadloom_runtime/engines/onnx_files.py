"""Which files an untrusted ONNX graph would make its engine open: only the weights beside it may be among them.

A tensor of a graph may lie in another file, named by a path and an offset that the engine follows, or in the memory of
the process. The graph is looked through here, before any engine sees it, by walking the protobuf encoding: no message
is built, nothing recurses, and whatever is not plain protobuf is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from quadloom_runtime.errors import QuadloomError

Kind = Literal["model", "graph", "node", "attribute", "tensor", "sparse", "function", "training", "entry"]
# The fields, by number, of onnx.proto through which tensors are reached; all others are skipped.
FIELDS: Final[Mapping[Kind, Mapping[int, Kind]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT_BYTES = 10
LARGEST_FIELD_NUMBER = (1 << 29) - 1
LARGEST_GRAPH_BYTES = 256 << 20


class UnsafeGraphError(QuadloomError):
    """A graph that is not plain ONNX, or reaches for more than its family's weights."""

    def __init__(self, graph: Path, problem: str) -> None:
        super().__init__(
            f"the graph {graph} is not safe to open: {problem}",
            remedy="do not use this family before whoever made it can say why",
        )


def check_graph_files(graph: Path, weights: Path) -> None:
    """Check that every external tensor of a graph lies within the weights file, which lies beside the graph.

    Raises:
        UnsafeGraphError: one does not, or the file is no ONNX graph.
        QuadloomError: a file cannot be read.
    """
    try:
        weights_bytes = weights.stat().st_size
        if graph.stat().st_size > LARGEST_GRAPH_BYTES:
            raise UnsafeGraphError(graph, f"it has more than {LARGEST_GRAPH_BYTES} bytes")
        content = memoryview(graph.read_bytes())
    except OSError as error:
        raise QuadloomError(
            f"the family's file {error.filename} cannot be read: {error.strerror}",
            remedy="check the family with `quadloom inspect DIR --verify`",
        ) from None
    if weights.parent != graph.parent:
        raise UnsafeGraphError(graph, f"its weights {weights} do not lie beside it")
    try:
        for entries in external_tensors(content):
            _check_entries(entries, weights.name, weights_bytes)
    except ValueError as error:
        raise UnsafeGraphError(graph, str(error)) from None


def external_tensors(content: memoryview) -> Iterator[dict[str, str]]:
    """Where each tensor lies that is not in the graph itself, as the graph states it.

    Raises:
        ValueError: the encoding is not plain protobuf, or a statement is doubled.
    """
    waiting: list[tuple[Kind, memoryview]] = [("model", content)]
    while waiting:
        kind, message = waiting.pop()
        if kind == "tensor":
            entries = _entries(message)
            if entries is not None:
                yield entries
            continue
        inside = FIELDS[kind]
        for number, wire, value in _fields(message):
            if number in inside:
                if wire != BYTES:
                    raise ValueError(f"field {number} of a {kind} is no message")
                waiting.append((inside[number], value))


def _entries(tensor: memoryview) -> dict[str, str] | None:
    """The external_data of a tensor; None if all of it is in the graph."""
    entries: dict[str, str] = {}
    is_external = False
    for number, wire, value in _fields(tensor):
        if number == TENSOR_DATA_LOCATION:
            # Whatever is sent in a way that some reader might not skip counts.
            is_external = True if wire != VARINT else is_external or any(value)
        elif number == TENSOR_EXTERNAL_DATA:
            if wire != BYTES:
                raise ValueError("external_data of a tensor is no message")
            is_external = True
            pair = [(each, bytes(text).decode("utf-8")) for each, kind, text in _fields(value) if kind == BYTES]
            if sorted(each for each, _ in pair) != [ENTRY_KEY, ENTRY_VALUE]:
                raise ValueError("an entry of external_data is not one key and one value")
            key, text = dict(pair)[ENTRY_KEY], dict(pair)[ENTRY_VALUE]
            if key in entries:
                raise ValueError(f"a tensor states its {key[:80]!r} twice")
            entries[key] = text
    return entries if is_external else None


def _check_entries(entries: dict[str, str], weights_name: str, weights_bytes: int) -> None:
    if entries.keys() != {"location", "offset", "length"}:
        raise ValueError(f"a tensor outside it is described by {sorted(entries)!r:.200}")
    if entries["location"] != weights_name:
        raise ValueError(f"a tensor lies in {entries['location'][:200]!r}, not in {weights_name!r}")
    for name in ("offset", "length"):
        text = entries[name]
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            raise ValueError(f"the {name} of a tensor is {text[:80]!r}")
    end = int(entries["offset"]) + int(entries["length"])
    if end > weights_bytes:
        raise ValueError(f"a tensor ends at byte {end} of {weights_name!r}, which has {weights_bytes}")


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and content of each field; that of a number is its bytes as they stand."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= LARGEST_FIELD_NUMBER:
            raise ValueError(f"it is no ONNX: a field has the number {number}")
        start = place
        if wire == VARINT:
            _, place = _varint(message, place)
        elif wire == BYTES:
            length, start = _varint(message, place)
            place = start + length
        elif wire in (FIXED32, FIXED64):
            place += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"it is no ONNX: a field has the wire type {wire}")
        if place > len(message):
            raise ValueError("it is no ONNX: it ends within a field")
        yield number, wire, message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    found = 0
    for index in range(LONGEST_VARINT_BYTES):
        if place + index >= len(message):
            raise ValueError("it is no ONNX: it ends within a number")
        byte = message[place + index]
        found |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return found, place + index + 1
    raise ValueError("it is no ONNX: a number does not end")
