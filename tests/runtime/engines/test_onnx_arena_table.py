"""What a table of an arena may say, and what is bound where."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.engines.arena_tables import GOOD, ITEM_BYTES, NO_TABLES, bytes_of, shapes, tables

from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    ArenaTable,
    BoundGraph,
    order_digest,
)


@given(tables())
@settings(deadline=None)
def test_a_table_is_read_as_it_was_written(table: ArenaTable) -> None:
    assert ArenaTable.from_json(table.to_json()) == table


@pytest.mark.parametrize("text", NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one is pydantic's, or the parser's
        ArenaTable.from_json(text)


def test_a_text_that_is_not_even_characters_is_a_value_error() -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        ArenaTable.from_json("\ud800")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("float32")),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def almost_tables(draw: st.DrawFn) -> str:
    """A table in which a value, somewhere, is any other, or cut somewhere."""
    fields = json.loads(json.dumps(GOOD))
    for _ in range(draw(st.integers(0, 2))):
        inner: Any = fields
        while True:
            keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
            key = draw(st.sampled_from(keys)) if keys else None
            if not keys or not (isinstance(inner[key], dict | list) and draw(st.booleans())):
                break
            inner = inner[key]
        if key is not None:
            inner[key] = draw(JSON)
    text = json.dumps(fields)
    return text[: draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))]


@given(st.one_of(almost_tables(), JSON.map(json.dumps), st.text()))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_table_or_a_value_error(text: str) -> None:
    try:
        table = ArenaTable.from_json(text)
    except ValueError:
        return
    assert ArenaTable.from_json(table.to_json()) == table


# What is bound where.


class Recorder:
    """Takes the place of a session, to see what is bound; it runs nothing, so what it ran is the order of no nodes."""

    def __init__(self, folder: Path) -> None:
        self.bound: dict[str, tuple[Any, tuple[int, ...], int]] = {}
        self._profile = folder / "profile.json"
        self._profile.touch()

    def get_inputs(self) -> list[Any]:
        return []

    def end_profiling(self) -> str:
        return str(self._profile)

    def io_binding(self) -> "Recorder":
        self.bound = {}
        return self

    def clear_binding_inputs(self) -> None:
        pass

    def bind_output(
        self, name: str, device: str, device_id: int, dtype: type, shape: Sequence[int], pointer: int
    ) -> None:
        assert (device, device_id) == ("cpu", 0)
        self.bound[name] = dtype, tuple(shape), pointer

    def run_with_iobinding(self, binding: "Recorder") -> None:
        assert binding is self


@contextmanager
def recorded(table: ArenaTable) -> Iterator[tuple[BoundGraph, Recorder]]:
    with TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        yield BoundGraph(recorder, table, [], graph=Path("graph.onnx")), recorder


@st.composite
def any_tables(draw: st.DrawFn) -> str:
    """Tables of which some are sound: every number is drawn around the place where it begins to be wrong."""
    batch_size, rows, ends = draw(st.integers(1, 9)), [], [0]
    for index in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
        shape = list(draw(st.one_of(shapes(), st.lists(st.integers(-9, 9), max_size=3))))
        offset = ALIGNMENT_BYTES * draw(st.integers(0, 9)) + draw(st.sampled_from([0, 0, 0, 0, 8, -64]))
        rows.append([f"t{index}", dtype, shape, offset])
        ends.append(offset + bytes_of(dtype, shape, batch_size))
    size_bytes = max(0, max(ends) + draw(st.integers(-2, 2)) * draw(st.sampled_from([0, 1, 64])))
    fields = {"batch_size": batch_size, "size_bytes": size_bytes, "order_sha256": order_digest([]), "tensors": rows}
    return json.dumps(fields)


@given(any_tables(), st.lists(st.integers(1, 200), min_size=1, max_size=4))
@settings(max_examples=250, deadline=None)
def test_whatever_a_table_says_nothing_is_bound_outside_of_the_buffer(text: str, batch_sizes: list[int]) -> None:
    try:
        table = ArenaTable.from_json(text)
    except ValueError:
        return
    with recorded(table) as (graph, recorder):
        for batch_size in batch_sizes:
            graph.run({}, batch_size=batch_size)
            buffer = graph._arena
            assert buffer is not None
            first, end = buffer.ctypes.data, buffer.ctypes.data + buffer.nbytes
            assert recorder.bound.keys() == {name for name, *_ in json.loads(text)["tensors"]}
            for name, dtype, sizes, _ in json.loads(text)["tensors"]:
                bound_dtype, shape, pointer = recorder.bound[name]
                assert np.dtype(bound_dtype).name == dtype
                assert shape == tuple(-size * batch_size if size < 0 else size for size in sizes)
                size_bytes = ITEM_BYTES[dtype] * math.prod(shape)
                if size_bytes:  # where nothing lies is no matter
                    assert pointer % ALIGNMENT_BYTES == 0
                    assert first <= pointer
                    assert pointer + size_bytes <= end


@given(tables(), st.integers(1, 200))
@settings(deadline=None)
def test_tensors_apart_in_the_plan_are_apart_in_every_batch(table: ArenaTable, batch_size: int) -> None:
    with recorded(table) as (graph, recorder):
        graph.run({}, batch_size=batch_size)
        for a in table.tensors:
            for b in table.tensors:
                size_bytes = [bytes_of(each.dtype, each.shape, batch_size) for each in (a, b)]
                if all(size_bytes) and a.offset + bytes_of(a.dtype, a.shape, table.batch_size) <= b.offset:
                    assert recorder.bound[a.name][2] + size_bytes[0] <= recorder.bound[b.name][2]


@given(tables(), st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_buffer_is_as_large_as_the_largest_batch_needs(table: ArenaTable, batch_sizes: list[int]) -> None:
    with recorded(table) as (graph, _):
        for batch_size in batch_sizes:
            graph.run({}, batch_size=batch_size)
        times = max(math.ceil(each / table.batch_size) for each in batch_sizes)
        assert graph._arena is not None
        assert graph._arena.nbytes <= times * table.size_bytes + ALIGNMENT_BYTES
