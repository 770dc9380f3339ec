"""Graphs in an arena, written by hand: that they compute the same, and what is refused."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from tests.runtime.engines.arena_tables import NO_TABLES, PLANNED, ROW_BYTES, WIDTH, placed
from tests.runtime.engines.script_process import in_process

from quadloom_runtime.contract.manifest import TensorSpec
from quadloom_runtime.engines.onnx import open_graph, session_options
from quadloom_runtime.engines.onnx_arena import (
    ALIGNMENT_BYTES,
    METADATA_KEY,
    ArenaTable,
    BoundGraph,
    PlacedTensor,
    order_digest,
    profiling,
)
from quadloom_runtime.errors import QuadloomError, StepOutOfMemoryError


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


def test_an_arena_that_no_machine_has_is_out_of_memory(tmp_path: Path) -> None:
    table = json.loads(CHAIN.table().to_json()) | {"size_bytes": 2**53}
    with pytest.raises(StepOutOfMemoryError, match="chain"):
        opened(CHAIN, tmp_path / "chain.onnx", table=json.dumps(table))
