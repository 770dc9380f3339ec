"""Reads the header of an untrusted safetensors file, and its tensors only when all of it is in order.

    8 bytes: length n of the header, little endian | n bytes: JSON, padded with spaces | the tensors in a row

Stricter than the format asks for: whatever is accepted here, the safetensors library reads to the same tensors. The
JSON names every key once and has no floats, no constants and no surplus fields; the tensors fill the file without a
gap, an overlap or a byte left over; a size is what dtype and shape say.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.json_depth import is_deeper_than

LENGTH_BYTES = 8
LARGEST_HEADER_BYTES = 1 << 20
DEEPEST = 3
"""The file's object, a tensor's object, its shape."""
LARGEST_RANK = 8
LARGEST_EXTENT = 1 << 40
METADATA_KEY = "__metadata__"
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


class MalformedSafetensorsError(QuadloomError):
    """A file is not safetensors, or not in the strict form."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause, remedy="write the file with the safetensors library")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: bytes from `begin` to `end` after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A checked header. `data_offset` is where the tensors begin in the file, in bytes."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_offset: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a file against the file's size; no tensor is read.

    Raises:
        MalformedSafetensorsError: with what is wrong.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        content = _header_content(file, size_bytes)
    data_offset = LENGTH_BYTES + len(content)
    fields = _json_object(content)
    metadata = _metadata(fields.pop(METADATA_KEY, {}))
    tensors = {name: _entry(name, value) for name, value in fields.items()}
    _check_contiguous(tensors, size_bytes=size_bytes - data_offset)
    return SafetensorsHeader(tensors, metadata, data_offset)


def read_tensor(path: Path, header: SafetensorsHeader, name: str) -> NDArray[Any]:
    """Read one tensor.

    Raises:
        MalformedSafetensorsError: the file was cut since its header was checked.
    """
    entry = header.tensors[name]
    count = math.prod(entry.shape)
    found = np.fromfile(path, dtype=entry.dtype, count=count, offset=header.data_offset + entry.begin)
    if found.size != count:
        raise MalformedSafetensorsError(f"tensor {name[:80]!r} has {found.size} values on disk, not {count}")
    return found.reshape(entry.shape)


def _header_content(file: IO[bytes], size_bytes: int) -> bytes:
    prefix = file.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        raise MalformedSafetensorsError(f"a file of {size_bytes} bytes is too short for a safetensors header")
    length = int.from_bytes(prefix, "little")
    if length > LARGEST_HEADER_BYTES:
        raise MalformedSafetensorsError(f"the header says it has {length} bytes, more than {LARGEST_HEADER_BYTES}")
    if length > size_bytes - LENGTH_BYTES:
        raise MalformedSafetensorsError(f"the header says it has {length} bytes, the file has {size_bytes} in all")
    content = file.read(length)
    if not content.startswith(b"{"):
        raise MalformedSafetensorsError("the header does not begin with '{'")
    return content


def _json_object(content: bytes) -> dict[str, Any]:
    if is_deeper_than(content, DEEPEST):
        raise MalformedSafetensorsError(f"the header nests deeper than {DEEPEST} levels")
    try:
        text = content.decode("utf-8")
        # A lone surrogate such as \ud800 is no character: the library refuses it, Python would take it.
        fields = json.loads(text, object_pairs_hook=_unique, parse_float=_no_number, parse_constant=_no_number)
        json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except MalformedSafetensorsError:
        raise
    except ValueError as error:  # includes UnicodeError, and integers of too many digits
        raise MalformedSafetensorsError(f"the header is not UTF-8 JSON: {error}") from None
    return dict(fields)  # it begins with '{'


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise MalformedSafetensorsError(f"the header names {double[:80]!r} twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise MalformedSafetensorsError(f"the header holds {text[:80]}, where only integers belong")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise MalformedSafetensorsError(f"the header's {METADATA_KEY} is not a map of texts")
    return value


def _entry(name: str, value: Any) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedSafetensorsError(f"tensor {name[:80]!r} is not described by dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise MalformedSafetensorsError(f"tensor {name[:80]!r} has the dtype {str(kind)[:40]!r}, unknown here")
    if not _are_sizes(shape) or len(shape) > LARGEST_RANK:
        raise MalformedSafetensorsError(f"tensor {name[:80]!r} has no valid shape: {str(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise MalformedSafetensorsError(f"tensor {name[:80]!r} has no valid data_offsets: {str(offsets)[:80]}")
    begin, end = offsets
    stated_bytes, needed_bytes = end - begin, math.prod(shape) * dtype.itemsize
    if stated_bytes != needed_bytes:
        raise MalformedSafetensorsError(
            f"tensor {name[:80]!r} takes {stated_bytes} bytes, its dtype and shape {needed_bytes}"
        )
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    # bool is an int in Python, not in JSON
    return isinstance(value, list) and all(type(each) is int and 0 <= each <= LARGEST_EXTENT for each in value)


def _check_contiguous(tensors: Mapping[str, TensorEntry], *, size_bytes: int) -> None:
    """Each tensor begins where the one before it ends, and the last ends where the file does."""
    reached = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            problem = "overlaps the tensor before it" if entry.begin < reached else "leaves a gap before it"
            raise MalformedSafetensorsError(f"tensor {name[:80]!r} {problem}: begins at {entry.begin}, not {reached}")
        reached = entry.end
    if reached != size_bytes:
        raise MalformedSafetensorsError(f"the tensors take {reached} bytes, the file has {size_bytes} for them")
