"""Graphs in an arena of their own: what a table may say, what is bound where, and that it computes the same.

Tables and graphs are written by hand here; those that the exporter lays out have their tests beside it.
"""

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from quadloom_runtime.contract.manifest import FamilyManifest, TensorSpec
from quadloom_runtime.engines.onnx import open_graph, session_options
from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    LARGEST_TABLE_BYTES,
    METADATA_KEY,
    ArenaTable,
    BoundGraph,
    PlacedTensor,
    order_digest,
    profiling,
)
from quadloom_runtime.errors import QuadloomError, StepOutOfMemoryError

Family = tuple[Path, FamilyManifest]
Change = Callable[[dict[str, Any]], object]
ITEM_BYTES = {"float32": 4, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
PLANNED, WIDTH = 8, 64
ROW_BYTES = 4 * WIDTH


# What a table may say.


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


@given(tables())
@settings(deadline=None)
def test_a_table_is_read_as_it_was_written(table: ArenaTable) -> None:
    assert ArenaTable.from_json(table.to_json()) == table


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


# Graphs that are really run.


@dataclass(frozen=True)
class Written:
    """A graph, and where the tensors of it lie."""

    nodes: Sequence[NodeProto]
    inputs: Sequence[ValueInfoProto]
    outputs: Sequence[TensorSpec]
    tensors: Sequence[PlacedTensor]
    hidden: Sequence[ValueInfoProto]
    """Of the placed tensors those that are no results."""
    constants: Sequence[TensorProto] = ()

    def plain(self) -> ModelProto:
        graph = helper.make_graph(
            self.nodes, "written", self.inputs, [value(each) for each in self.outputs], self.constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def table(self, *, order: Sequence[str] | None = None) -> ArenaTable:
        """Args: order: names of the nodes as they are said to run; by default, that of the file."""
        end = max(each.offset + each.size_bytes(PLANNED) for each in self.tensors)
        names = [node.name for node in self.nodes] if order is None else order
        return ArenaTable(
            batch_size=PLANNED, size_bytes=end, order_sha256=order_digest(names), tensors=tuple(self.tensors)
        )

    def save(self, path: Path, *, table: str | None = None) -> Path:
        model = self.plain()
        model.graph.output.extend(self.hidden)
        model.metadata_props.add(key=METADATA_KEY, value=self.table().to_json() if table is None else table)
        path.write_bytes(model.SerializeToString())
        return path


def value(spec: TensorSpec) -> ValueInfoProto:
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape)


def numbers(name: str, *sizes: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def chain() -> Written:
    """Each tensor lies where the last but one lay, which nobody reads any more; one result is a scalar."""
    operators = ["MatMul", "Tanh", "Exp", "Softmax", "Sqrt", "Sigmoid"]
    nodes = []
    for index, operator in enumerate(operators):
        read = ["x", "w"] if operator == "MatMul" else [f"t{index - 1}"]
        nodes.append(helper.make_node(operator, read, [f"t{index}"], name=f"n{index}"))
    last = f"t{len(operators) - 1}"
    nodes += [
        helper.make_node("Identity", [last], ["y"], name="copy"),
        helper.make_node("ReduceSum", ["y"], ["total"], name="sum", keepdims=0),
    ]
    names = [f"t{index}" for index in range(len(operators))]
    tensors = [placed(name, "float32", [-1, WIDTH], index % 2 * 8 * ROW_BYTES) for index, name in enumerate(names)]
    tensors += [
        placed("y", "float32", [-1, WIDTH], 16 * ROW_BYTES),
        placed("total", "float32", [], 24 * ROW_BYTES),
    ]
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return Written(
        nodes=nodes,
        inputs=[numbers("x", None, WIDTH)],
        outputs=[
            TensorSpec(name="total", dtype="float32", shape=()),
            TensorSpec(name="y", dtype="float32", shape=(None, WIDTH)),
        ],
        tensors=tensors,
        hidden=[numbers(name, None, WIDTH) for name in names],
        constants=[numpy_helper.from_array(weight, "w")],
    )


CHAIN = chain()


def rows(count: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((count, WIDTH)).astype(np.float32)}


def plain_session(written: Written) -> Any:
    return onnxruntime.InferenceSession(written.plain().SerializeToString(), session_options(threads=1))


def expected(session: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def opened(written: Written, path: Path, *, table: str | None = None) -> BoundGraph:
    return open_graph(written.save(path, table=table), tuple(written.outputs), threads=1)


def refused(written: Written, path: Path, problem: str, *, table: str | None = None) -> None:
    with pytest.raises(QuadloomError, match=problem) as raised:
        opened(written, path, table=table)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("text", NO_TABLES.values(), ids=NO_TABLES)
def test_a_graph_that_carries_no_table_is_refused_by_name(tmp_path: Path, text: str) -> None:
    refused(CHAIN, tmp_path / "odd.onnx", "carries no sound table of its memory", table=text)


def test_a_graph_without_any_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    path.write_bytes(CHAIN.plain().SerializeToString())
    with pytest.raises(QuadloomError, match=r"plain\.onnx carries no sound table"):
        open_graph(path, tuple(CHAIN.outputs), threads=1)


@given(batch_sizes=st.lists(st.integers(1, 3 * PLANNED), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_batches_of_any_size_in_any_order_give_what_a_plain_session_gives(
    tmp_path_factory: pytest.TempPathFactory, batch_sizes: list[int]
) -> None:
    graph = opened(CHAIN, tmp_path_factory.mktemp("graph") / "chain.onnx")
    plain = plain_session(CHAIN)
    for seed, count in enumerate(batch_sizes):
        feeds = rows(count, seed=seed)
        assert_same(graph.run(feeds, batch_size=count), expected(plain, feeds))


def test_a_later_run_changes_no_earlier_result(tmp_path: Path) -> None:
    graph, plain = opened(CHAIN, tmp_path / "chain.onnx"), plain_session(CHAIN)
    first = graph.run(rows(PLANNED), batch_size=PLANNED)
    for seed, count in ((1, PLANNED), (2, 3 * PLANNED), (3, 1)):
        graph.run(rows(count, seed=seed), batch_size=count)
    assert_same(first, expected(plain, rows(PLANNED)))
    first["y"][:] = 0  # and is the caller's own
    assert_same(graph.run(rows(PLANNED), batch_size=PLANNED), expected(plain, rows(PLANNED)))


def test_results_outlive_the_graph(tmp_path: Path) -> None:
    graph = opened(CHAIN, tmp_path / "chain.onnx")
    found = graph.run(rows(PLANNED), batch_size=PLANNED)
    del graph
    assert_same(found, expected(plain_session(CHAIN), rows(PLANNED)))


def test_a_run_that_failed_leaves_the_next_one_right(tmp_path: Path) -> None:
    graph, plain = opened(CHAIN, tmp_path / "chain.onnx"), plain_session(CHAIN)
    for count in (PLANNED, 3):
        narrow = {"x": np.ones((count, WIDTH - 1), np.float32)}
        for feeds, said in ((narrow, count), ({}, count), (rows(count), count + 1)):
            with pytest.raises(Exception, match=r"."):  # ONNX Runtime's own, of no base
                graph.run(feeds, batch_size=said)
            assert_same(graph.run(rows(count), batch_size=count), expected(plain, rows(count)))


class ShortOfMemory:
    """A session, or a binding of it, for which memory fails at one output; all else is ONNX Runtime's."""

    def __init__(self, inner: Any, fails_at: list[int]) -> None:
        self._inner, self._fails_at = inner, fails_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def io_binding(self) -> "ShortOfMemory":
        return ShortOfMemory(self._inner.io_binding(), self._fails_at)

    def bind_output(self, *arguments: Any) -> None:
        if self._fails_at:
            self._fails_at[0] -= 1
            if self._fails_at[0] < 0:
                self._fails_at.clear()
                raise MemoryError
        self._inner.bind_output(*arguments)

    def run_with_iobinding(self, binding: "ShortOfMemory") -> None:
        self._inner.run_with_iobinding(binding._inner)


@pytest.mark.parametrize("fails_at", range(len(CHAIN.tensors)))
def test_memory_that_runs_out_while_outputs_are_bound_leaves_none_unbound(tmp_path: Path, fails_at: int) -> None:
    options, plain = session_options(threads=1), plain_session(CHAIN)
    countdown: list[int] = []
    with profiling(options):
        session = onnxruntime.InferenceSession(CHAIN.save(tmp_path / "chain.onnx"), options)
        results = [each.name for each in CHAIN.outputs]
        graph = BoundGraph(ShortOfMemory(session, countdown), CHAIN.table(), results, graph=Path("chain.onnx"))
    graph.run(rows(PLANNED), batch_size=PLANNED)
    countdown.append(fails_at)
    with pytest.raises(MemoryError):
        graph.run(rows(3), batch_size=3)
    assert_same(graph.run(rows(PLANNED, seed=1), batch_size=PLANNED), expected(plain, rows(PLANNED, seed=1)))


def test_a_result_without_a_place_is_named(tmp_path: Path) -> None:
    fields = json.loads(CHAIN.table().to_json())
    fields["tensors"] = [row for row in fields["tensors"] if row[0] != "total"]
    refused(CHAIN, tmp_path / "chain.onnx", r"no places for its results \['total'\]", table=json.dumps(fields))


# The order.


def branches() -> Written:
    """Two tensors of the same input, and their sum: each of the two may be made first."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"], name="left"),
        helper.make_node("Exp", ["x"], ["b"], name="right"),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    return Written(
        nodes=nodes,
        inputs=[numbers("x", None, WIDTH)],
        outputs=[TensorSpec(name="y", dtype="float32", shape=(None, WIDTH))],
        tensors=[placed(name, "float32", [-1, WIDTH], 8 * ROW_BYTES * i) for i, name in enumerate("aby")],
        hidden=[numbers(name, None, WIDTH) for name in "ab"],
    )


def test_a_graph_that_runs_in_another_order_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    """Of the two orders that the graph allows, ONNX Runtime has one."""
    written, plain = branches(), plain_session(branches())
    own = executed_order(written, tmp_path)
    other = [own[1], own[0], own[2]]
    assert {*own[:2]} == {"left", "right"}
    graph = opened(written, tmp_path / "own.onnx", table=written.table(order=own).to_json())
    assert_same(graph.run(rows(3), batch_size=3), expected(plain, rows(3)))
    problem = rf"onnxruntime {onnxruntime.__version__} does not run .*other\.onnx in the order that it was planned for"
    refused(written, tmp_path / "other.onnx", problem, table=written.table(order=other).to_json())


def executed_order(written: Written, folder: Path) -> list[str]:
    """Names of the nodes as ONNX Runtime runs them, from its own profile."""
    options = session_options(threads=1)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(written.plain().SerializeToString(), options)
    session.run(None, rows(1))
    events = json.loads(Path(session.end_profiling()).read_text())
    names = [each["name"] for each in events]
    return [name.removesuffix("_kernel_time") for name in names if name.endswith("_kernel_time")]


@pytest.mark.parametrize("order", [[], ["n0"], ["sum", "copy"], [f"n{index}" for index in range(6)]])
def test_a_plan_of_other_nodes_is_refused(tmp_path: Path, order: list[str]) -> None:
    table = CHAIN.table(order=order).to_json()
    refused(CHAIN, tmp_path / "chain.onnx", "in the order that it was planned for", table=table)


def test_nodes_that_only_serve_the_order_do_not_count() -> None:
    assert order_digest(["a", "a/order", "b"]) == order_digest(["a", "b"]) != order_digest(["b", "a"])
    assert order_digest(["ab"]) != order_digest(["a", "b"])


# What is declared of a tensor, and what it is.

RAW_WRITERS = {
    "Transpose": (["x"], {"perm": [0, 1]}),
    "Reshape": (["x", "keep"], {}),
    "Identity": (["x"], {}),
    "Expand": (["x", "spread"], {}),
    "Concat": (["x"], {"axis": 0}),
    "Slice": (["x", "zero", "end"], {}),
    "Gather": (["x", "columns"], {"axis": 1}),
    "Add": (["x", "x"], {}),
    "Softmax": (["x"], {}),
}
"""Operators that all make a tensor of the shape of their input; the first ones copy its bytes."""


def one_tensor(operator: str, *, dtype: str = "float32", shape: Sequence[int] = (-1, WIDTH)) -> Written:
    """A graph of one large tensor, of which the table says `dtype` and `shape`."""
    inputs, attributes = RAW_WRITERS[operator]
    integers = {"keep": [0, 0], "spread": [1, 1], "zero": [0], "end": [10**6], "columns": list(range(WIDTH))}
    return Written(
        nodes=[
            helper.make_node(operator, inputs, ["t"], name="make", **attributes),
            helper.make_node("ReduceSum", ["t"], ["total"], name="sum", keepdims=0),
        ],
        inputs=[numbers("x", None, WIDTH)],
        outputs=[TensorSpec(name="total", dtype="float32", shape=())],
        tensors=[placed("total", "float32", [], 0), placed("t", dtype, shape, ALIGNMENT_BYTES)],
        hidden=[numbers("t", None, WIDTH)],
        constants=[numpy_helper.from_array(np.asarray(each), name) for name, each in integers.items()],
    )


LIES: dict[str, dict[str, Any]] = {
    "a wider dtype": {"dtype": "int64"},
    "a narrower dtype": {"dtype": "int8"},
    "a byte": {"dtype": "uint8"},
    "flags": {"dtype": "bool"},
    "another dtype of the same size": {"dtype": "int32"},
    "fewer columns": {"shape": [-1, WIDTH // 2]},
    "more columns": {"shape": [-1, 2 * WIDTH]},
    "no columns": {"shape": [-1, 0]},
    "more rows per example": {"shape": [-2, WIDTH]},
    "rows in another dimension": {"shape": [1, -WIDTH]},
    "as many numbers in one dimension": {"shape": [-WIDTH]},
    "as many numbers in three": {"shape": [-1, 8, 8]},
    "a scalar": {"shape": []},
    "no row": {"shape": [0, WIDTH]},
    "the rows of the planned batch": {"shape": [PLANNED, WIDTH]},
    "the one row of the first run": {"shape": [1, WIDTH]},
    "more numbers than a processor counts, of which there are none": {"shape": [0, 2**31, 2**31]},
}
TRUE_OF_ONE_ROW = {"rows in another dimension", "the one row of the first run"}

REFUSE_ALL = """
import pickle, sys
from pathlib import Path
import numpy as np
from quadloom_runtime.engines.onnx import open_graph
from quadloom_runtime.errors import QuadloomError

cases, good, specs, batch_size = pickle.loads(Path(sys.argv[1]).read_bytes())
x = np.random.default_rng(0).standard_normal((batch_size, 64)).astype(np.float32)
honest = open_graph(good, specs, threads=1)
before = honest.run({"x": x}, batch_size=batch_size)["total"]
for name, path in cases:
    try:
        graph = open_graph(path, specs, threads=1)
    except QuadloomError as error:
        print(name, "refused", path.name in error.cause, "does not run" in error.cause, sep="; ")
        continue
    try:
        graph.run({"x": x}, batch_size=batch_size)
    except Exception as error:
        print(name, "fails", isinstance(error, RuntimeError), sep="; ")
    else:
        print(name, "ran", sep="; ")
    assert honest.run({"x": x}, batch_size=batch_size)["total"] == before
"""


def test_a_tensor_that_is_not_what_the_table_says_is_an_error_and_never_written(tmp_path: Path) -> None:
    """In a process of its own: a byte written outside of a place would be one of glibc's, which checks its lists."""
    cases, wanted = [], []
    for operator in RAW_WRITERS:
        for name, lie in LIES.items():
            case = f"{operator}, {name}"
            cases.append((case, one_tensor(operator, **lie).save(tmp_path / f"{len(cases)}.onnx")))
            wanted.append(f"{case}; fails; True" if name in TRUE_OF_ONE_ROW else f"{case}; refused; True; True")
    good = one_tensor("Identity")
    call = cases, good.save(tmp_path / "good.onnx"), tuple(good.outputs), 5
    (tmp_path / "call").write_bytes(pickle.dumps(call))
    assert in_process(REFUSE_ALL, tmp_path / "call").splitlines() == wanted


@pytest.mark.parametrize("name", ["nobody", "x", "w", ""])
def test_a_place_for_a_tensor_that_the_graph_does_not_make_is_refused(tmp_path: Path, name: str) -> None:
    fields = json.loads(CHAIN.table().to_json())
    fields["tensors"].append([name, "float32", [-1, WIDTH], 0])
    refused(CHAIN, tmp_path / "chain.onnx", "does not run", table=json.dumps(fields))


# Memory. A step of the family's member d01-q00 holds 200 MB.

MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.emulation.limits import step_memory_limit
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.memory import process_memory

folder, MB = Path(sys.argv[1]), 10**6
manifest = load_manifest(folder)
rows = manifest.batch.batch_size, manifest.batch.sequence_length
batch = Batch(*(np.ones(rows, np.int64) for _ in range(3)), np.ones(rows[0], np.int64))
parameters = {row.name: np.ones(row.shape, np.float32) for row in manifest.parameters}
small, hungry = (MemberKey(depth=1, quantized_layers=1), MemberKey(depth=1, quantized_layers=0))
expected = open_training_engine(folder, manifest, small).step(parameters, batch)

def is_expected(found):
    same = all((found.gradients[name] == value).all() for name, value in expected.gradients.items())
    return bool(same and found.gradients.keys() == expected.gradients.keys() and found.loss == expected.loss)

def held():
    return [process_memory().data_bytes // MB, process_memory().anonymous_bytes // MB]
"""


def measured(family: Family, body: str) -> Any:
    return json.loads(in_process(MEASURE + body, family[0]).splitlines()[-1])


def test_the_arena_is_allocated_by_the_first_step_and_kept(family: Family) -> None:
    before, opened_, stepped, again, closed = measured(
        family,
        """
figures = [held()]
engine = open_training_engine(folder, manifest, hungry)
figures.append(held())
for _ in range(2):
    assert is_expected(engine.step(parameters, batch))
    figures.append(held())
del engine
print(json.dumps([*figures, held()]))
""",
    )
    for kind in (0, 1):  # address space, and pages of it
        assert opened_[kind] - before[kind] < 10
        assert 195 <= stepped[kind] - opened_[kind] < 210
        assert abs(again[kind] - stepped[kind]) <= 1
        assert closed[kind] - before[kind] < 10


def test_a_step_that_did_not_fit_is_out_of_memory_and_the_next_one_runs(family: Family) -> None:
    found = measured(
        family,
        """
engine = open_training_engine(folder, manifest, hungry)
caught = []
for _ in range(2):
    try:
        with step_memory_limit(100 * MB, member="d01-q00"):
            engine.step(parameters, batch)
    except StepOutOfMemoryError as error:
        caught.append([error.member, error.limit_bytes])
right = [is_expected(engine.step(parameters, batch))]
with step_memory_limit(10 * MB, member="d01-q00"):  # all that it needs is there
    right.append(is_expected(engine.step(parameters, batch)))
print(json.dumps({"caught": caught, "right": right}))
""",
    )
    assert found == {"caught": [["d01-q00", 100_000_000]] * 2, "right": [True, True]}


def test_a_graph_that_does_not_even_fit_its_first_run_is_out_of_memory(family: Family) -> None:
    found = measured(
        family,
        """
try:
    with step_memory_limit(100 * MB, member="d01-q00"):
        open_training_engine(folder, manifest, hungry)
except StepOutOfMemoryError as error:
    caught = error.cause
engine = open_training_engine(folder, manifest, hungry)
print(json.dumps([caught, is_expected(engine.step(parameters, batch))]))
""",
    )
    assert "out of memory: a step of member d01-q00 does not fit the limit of 100.0 MB" in found[0]
    assert found[1]


def test_an_arena_that_no_machine_has_is_out_of_memory(tmp_path: Path) -> None:
    table = json.loads(CHAIN.table().to_json()) | {"size_bytes": 2**53}
    with pytest.raises(StepOutOfMemoryError, match="chain"):
        opened(CHAIN, tmp_path / "chain.onnx", table=json.dumps(table))


def in_process(body: str, *arguments: Path) -> str:
    """What a script prints that runs to its end in a process of its own."""
    command = [sys.executable, "-c", body, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
