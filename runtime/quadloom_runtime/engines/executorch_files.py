"""What an untrusted ExecuTorch program would do: compute with known operators on its family's weights, and no more.

The runtime follows offsets and sizes of a program and its data file, and calls whatever backend or operator the program
names. Both files are looked through here before any runtime sees them. Layouts are those of ``program.fbs`` and
``flat_tensor.fbs`` in ExecuTorch 1.4, with the headers that stand before them.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quadloom_runtime.contract.manifest import ExecutorchBackend
from quadloom_runtime.engines.flatbuffer import Table, root
from quadloom_runtime.errors import QuadloomError

PROGRAM, DATA = b"ET12", b"FT01"
PROGRAM_HEADER, DATA_HEADER = b"eh00", b"FH01"
HEAD_BYTES = 64
LARGEST_GRAPH_BYTES = 256 << 20
INT8, UINT8, INT32, UINT32, INT64, UINT64 = "<b", "<B", "<i", "<I", "<q", "<Q"
# Numbers of the schema's unions and enumerations.
TENSOR, KERNEL_CALL, DELEGATE_CALL = 5, 1, 2
EXTERNAL = 1
IN_PROGRAM, IN_SEGMENT = 0, 1
BYTES_OF: Final[Mapping[int, int]] = {0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 2, 6: 4, 7: 8, 11: 1}
"""Element size per scalar type of the schema."""
OPERATOR_NAMESPACES = ("aten::", "dim_order_ops::")
"""Operators of ATen compute tensors from tensors and reach for nothing else."""
OPERATORS = frozenset({"executorch_prim::et_view"})
DELEGATES: Final[Mapping[ExecutorchBackend, frozenset[str]]] = {
    "portable": frozenset(),
    "xnnpack": frozenset({"XnnpackBackend"}),
}
"""Who may be handed work, by what the manifest says that a family's programs need."""


class UnsafeProgramError(QuadloomError):
    """A file that is no plain ExecuTorch program or data file, or a program that asks for more than it may."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"the program file {path} is not safe to open: {problem}",
            remedy="do not use this family before whoever made it can say why",
        )


@dataclass(frozen=True)
class _Content:
    """A file without its segments: the table that describes them, and how many bytes of them there are."""

    table: Table
    segments_bytes: int

    def segment_bytes(self, segment: Table) -> int:
        """Size of a segment, which lies within the file."""
        offset, size = segment.number(0, UINT64), segment.number(1, UINT64)
        if offset + size > self.segments_bytes:
            raise ValueError(f"a segment ends at byte {offset + size} of {self.segments_bytes}")
        return size


def check_program_files(program: Path, weights: Path | None, *, backend: ExecutorchBackend = "portable") -> None:
    """Check that a program calls known operators only and takes every constant from within `weights` or itself.

    Args:
        weights: the family's data file, None if the program holds its weights.
        backend: what the manifest says that the family's programs need. What a delegate is given it checks itself.

    Raises:
        UnsafeProgramError: it does not, or a file is cut or is of another kind.
        QuadloomError: a file cannot be read.
    """
    path = program
    try:
        external: dict[str, int] = {}
        if weights is not None:
            path = weights
            external = external_sizes(_open(weights, DATA))
        path = program
        content = _open(program, PROGRAM)
        constants = _constant_sizes(content)
        places = {IN_PROGRAM: len([*content.table.tables(3)]), IN_SEGMENT: len([*content.table.tables(4)])}
        for plan in content.table.tables(1):
            delegates = _check_delegates(plan, DELEGATES[backend], places)
            _check_plan(plan, external, constants, delegates)
    except OSError as error:
        raise QuadloomError(
            f"the family's file {path} cannot be read: {error.strerror}",
            remedy="check the family with `quadloom inspect DIR --verify`",
        ) from None
    except ValueError as error:
        raise UnsafeProgramError(path, str(error)) from None


def external_sizes(content: _Content) -> dict[str, int]:
    """Bytes per tensor of a data file.

    Raises:
        ValueError: a tensor has no segment within the file, or a name stands twice.
    """
    sizes = [content.segment_bytes(each) for each in content.table.tables(1)]
    found: dict[str, int] = {}
    for named in content.table.tables(2):
        name, index = named.text(0), named.number(1, UINT32)
        if index >= len(sizes) or name in found:
            raise ValueError(f"the tensor {name[:200]!r} has no segment of its own among {len(sizes)}")
        found[name] = sizes[index]
    return found


def _open(path: Path, kind: bytes) -> _Content:
    """Read what stands before the segments."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if len(head) < HEAD_BYTES or head[4:8] != kind:
            raise ValueError(f"it does not begin like {kind.decode()}")
        length, base, segments_bytes = _header(head, kind, size)
        if length > min(size, LARGEST_GRAPH_BYTES) or base + segments_bytes > size:
            raise ValueError(f"it has {size} bytes, and states {max(length, base + segments_bytes)}")
        file.seek(0)
        return _Content(root(memoryview(file.read(length))), segments_bytes)


def _header(head: bytes, kind: bytes, size: int) -> tuple[int, int, int]:
    """End of the FlatBuffer, whose offsets count from the start of the file; offset and length of all segments."""
    header_kind = head[8:12]
    if kind == DATA:
        if header_kind != DATA_HEADER:
            raise ValueError(f"it has no header {DATA_HEADER.decode()}")
        start, length, base, segments_bytes = struct.unpack_from("<4Q", head, 16)
        return start + length, base, segments_bytes
    if header_kind != PROGRAM_HEADER:
        return size, 0, 0  # a program without segments has none
    length, base, segments_bytes = struct.unpack_from("<3Q", head, 16)
    return length, base, segments_bytes


def _constant_sizes(content: _Content) -> list[int]:
    """Bytes from each constant of a program to the end of the segment that they share."""
    segments = [content.segment_bytes(each) for each in content.table.tables(4)]
    shared = content.table.table(5)
    if shared is None:
        return []
    offsets, index = shared.numbers(1, UINT64), shared.number(0, UINT32)
    if offsets and index >= len(segments):
        raise ValueError(f"its constants lie in segment {index} of {len(segments)}")
    return [segments[index] - offset for offset in offsets]


def _check_delegates(plan: Table, known: frozenset[str], places: Mapping[int, int]) -> int:
    """Only `known` backends are handed work, and what they are given is there. Returns how many delegates there are.

    Args:
        places: how many pieces of data there are, by where they may lie.
    """
    delegates = list(plan.tables(7))
    for delegate in delegates:
        if delegate.text(0) not in known:
            raise ValueError(f"it hands work to the backend {delegate.text(0)[:200]!r}")
        processed = delegate.table(1)
        where, index = (None, 0) if processed is None else (processed.number(0, INT8), processed.number(1, UINT32))
        if where is None or index >= places.get(where, 0):
            raise ValueError(f"the work of a delegate lies at {index} of {places}")
    return len(delegates)


def _check_plan(plan: Table, external: Mapping[str, int], constants: Sequence[int], delegates: int) -> None:
    for operator in plan.tables(6):
        name = operator.text(0)
        if name not in OPERATORS and not name.startswith(OPERATOR_NAMESPACES):
            raise ValueError(f"it calls the operator {name[:200]!r}")
    arenas = plan.numbers(8, INT64)
    for value in plan.tables(2):
        tensor = value.table(1) if value.number(0, UINT8) == TENSOR else None
        if tensor is not None:
            _check_tensor(tensor, external, constants, arenas)
    for chain in plan.tables(5):
        for instruction in chain.tables(2):
            kind, call = instruction.number(0, UINT8), instruction.table(1)
            if kind == DELEGATE_CALL and call is not None and 0 <= call.number(0, INT32) < delegates:
                continue
            if kind != KERNEL_CALL:
                raise ValueError(f"an instruction is of the kind {kind}, no call of a kernel or a delegate")


def _check_tensor(tensor: Table, external: Mapping[str, int], constants: Sequence[int], arenas: Sequence[int]) -> None:
    """Its bytes are there, wherever it says that they are."""
    kind, sizes = tensor.number(0, INT8), tensor.numbers(2, INT32)
    if kind not in BYTES_OF or min(sizes, default=0) < 0 or tensor.number(1, INT32) != 0:
        raise ValueError(f"a tensor has the scalar type {kind} and the shape {sizes[:20]}")
    wanted = math.prod(sizes) * BYTES_OF[kind]
    info, allocation, buffer = tensor.table(9), tensor.table(6), tensor.number(5, UINT32)
    if info is not None and info.number(2, INT8) == EXTERNAL:
        name = info.text(1)
        if external.get(name) != wanted:
            raise ValueError(f"it wants {wanted} bytes of {name[:200]!r}; the weights hold {external.get(name)}")
    elif allocation is not None:
        index, offset = allocation.number(0, UINT32), allocation.number(1, UINT32)
        offset += allocation.number(2, UINT32) << 32
        if index >= len(arenas) or offset + wanted > arenas[index]:
            raise ValueError(f"a tensor of {wanted} bytes at {offset} lies outside the arenas of {arenas[:20]} bytes")
    elif buffer and (buffer >= len(constants) or wanted > constants[buffer]):
        raise ValueError(f"a constant of {wanted} bytes lies outside the {len(constants)} constants")
