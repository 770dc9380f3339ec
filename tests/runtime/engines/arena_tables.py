"""Tables of an arena, sound and not."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    LARGEST_TABLE_BYTES,
    ArenaTable,
    PlacedTensor,
    order_digest,
)

Family = tuple[Path, FamilyManifest]
Change = Callable[[dict[str, Any]], object]
ITEM_BYTES = {"float32": 4, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
PLANNED, WIDTH = 8, 64
ROW_BYTES = 4 * WIDTH


def placed(name: str, dtype: str, shape: Sequence[int], offset: int) -> PlacedTensor:
    return PlacedTensor.model_validate({"name": name, "dtype": dtype, "shape": shape, "offset": offset})


def bytes_of(dtype: str, shape: Sequence[int], batch_size: int) -> int:
    return ITEM_BYTES[dtype] * math.prod(-size * batch_size if size < 0 else size for size in shape)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Sizes, at most one of them per example."""
    sizes = draw(st.lists(st.integers(0, 9), max_size=4))
    if sizes and draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] = -draw(st.integers(1, 9))
    return tuple(sizes)


@st.composite
def tables(draw: st.DrawFn) -> ArenaTable:
    """Tensors in places of their own, side by side with gaps; some of them twice in the same place."""
    batch_size, end, tensors = draw(st.integers(1, 9)), 0, []
    for index in range(draw(st.integers(0, 5))):
        dtype, shape = draw(st.sampled_from(sorted(ITEM_BYTES))), draw(shapes())
        end += ALIGNMENT_BYTES * draw(st.integers(0, 2))
        tensors.append(placed(f"{index}/{draw(st.text(max_size=4))}", dtype, shape, end))
        if draw(st.booleans()):
            tensors.append(placed(f"{index}, again", dtype, shape, end))
        end += math.ceil(bytes_of(dtype, shape, batch_size) / ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return ArenaTable(
        batch_size=batch_size,
        size_bytes=end,
        order_sha256=order_digest([]),
        tensors=tuple(draw(st.permutations(tensors))),
    )


GOOD = {
    "batch_size": PLANNED,
    "size_bytes": 4096,
    "order_sha256": order_digest(["n0"]),
    "tensors": [["y", "float32", [-1, WIDTH], 0], ["z", "int64", [3], 2048]],
}
HUGE = 10**400


def changed(change: Change) -> str:
    fields = json.loads(json.dumps(GOOD))
    change(fields)
    return json.dumps(fields)


def with_row(*row: object) -> str:
    return changed(lambda fields: fields["tensors"].append(row))


def without(name: str) -> str:
    return changed(lambda fields: fields.pop(name))


def replaced(name: str, value: object) -> str:
    return changed(lambda fields: fields.update({name: value}))


NO_TABLES = {
    "ends beyond the arena": with_row("t", "float32", [-1, WIDTH], 4096),
    "ends one row beyond the arena": with_row("t", "float32", [-1, WIDTH], 4096 - 7 * ROW_BYTES),
    "ends one byte beyond the arena": with_row("t", "int8", [65], 4096 - 64),
    "begins beyond the arena": with_row("t", "int8", [0], 4096 + 64),
    "offset beside the alignment": with_row("t", "int8", [1], 32),
    "offset of an odd byte": with_row("t", "int8", [1], 1),
    "negative offset": with_row("t", "int8", [1], -64),
    "offset of four hundred digits": with_row("t", "int8", [1], HUGE),
    "offset that is no number": with_row("t", "int8", [1], "first"),
    "offset that is no integer": with_row("t", "int8", [1], 64.5),
    "offset that is none": with_row("t", "int8", [1], None),
    "offset that is not finite": with_row("t", "int8", [1], math.inf),
    "size that is not finite": with_row("t", "int8", [math.nan], 0),
    "size of four hundred digits": with_row("t", "int8", [HUGE], 0),
    "size beyond 32 bits": with_row("t", "int8", [0, 2**31 + 1], 0),
    "sizes that overflow 64 bits": with_row("t", "int8", [2**31, 2**31, 4], 0),
    "two sizes per example": with_row("t", "int8", [-1, -1], 0),
    "a negative product of two": with_row("t", "int8", [-(2**31), -(2**31)], 0),
    "nine dimensions": with_row("t", "int8", [1] * 9, 0),
    "shape that is no list": with_row("t", "int8", 4, 0),
    "shape that is a text": with_row("t", "int8", "44", 0),
    "shape of lists": with_row("t", "int8", [[1]], 0),
    "unknown dtype": with_row("t", "float64", [1], 0),
    "no dtype": with_row("t", None, [1], 0),
    "dtype of numpy's own": with_row("t", "O", [1], 0),
    "name that is no text": with_row(7, "int8", [1], 0),
    "name that is too long": with_row("t" * 501, "int8", [1], 0),
    "row that is too short": with_row("t", "int8", [1]),
    "row that is too long": with_row("t", "int8", [1], 0, 0),
    "row that is empty": with_row(),
    "row that is a number": changed(lambda fields: fields["tensors"].append(7)),
    "row that is a text": changed(lambda fields: fields["tensors"].append("text")),
    "row that is none": changed(lambda fields: fields["tensors"].append(None)),
    "row of names": changed(lambda fields: fields["tensors"].append({"name": 1, "dtype": 1, "shape": 1, "offset": 1})),
    "tensors that are a number": replaced("tensors", 7),
    "tensors that are none": replaced("tensors", None),
    "tensors that are a text": replaced("tensors", "text"),
    "tensors by name": replaced("tensors", {"y": ["float32", [1], 0]}),
    "no tensors": without("tensors"),
    "no batch size": without("batch_size"),
    "no size": without("size_bytes"),
    "no order": without("order_sha256"),
    "batch of none": replaced("batch_size", 0),
    "batch of fewer than none": replaced("batch_size", -1),
    "batch of millions": replaced("batch_size", 10**6),
    "batch that is a list": replaced("batch_size", [8]),
    "arena of fewer bytes than none": replaced("size_bytes", -4096),
    "arena that is smaller than its tensors": replaced("size_bytes", 2048),
    "arena beyond exact numbers": replaced("size_bytes", 2**60),
    "order that is no digest": replaced("order_sha256", "n0"),
    "a field that nobody knows": replaced("colour", "red"),
    "a field that is stated twice": '{"batch_size": 1, ' + json.dumps(GOOD)[1:],
    "empty": "",
    "no JSON": "offset,size",
    "half of a table": json.dumps(GOOD)[:-5],
    "two tables": json.dumps(GOOD) * 2,
    "null": "null",
    "a number": "4096",
    "a text": '"tensors"',
    "a list": json.dumps([GOOD]),
    "a lone surrogate": with_row("\ud800", "int8", [1], 0),
    "a hundred thousand brackets": "[" * 100_000,
    "a hundred thousand tables in each other": '{"tensors":' * 100_000,
    "a hundred thousand brackets in a row": with_row("t", "int8", [], 0).replace("[]", "[" * 100_000 + "]" * 100_000),
    "more text than any table": json.dumps(GOOD) + " " * LARGEST_TABLE_BYTES,
}
