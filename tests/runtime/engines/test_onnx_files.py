"""A graph opens no file but its family's weights. The reference for what a graph says is the onnx package."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.engines.onnx_files import (
    FIELDS,
    TENSOR_DATA_LOCATION,
    TENSOR_EXTERNAL_DATA,
    UnsafeGraphError,
    check_graph_files,
    external_tensors,
)
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import QuadloomError

Family = tuple[Path, FamilyManifest]
WEIGHTS_BYTES = 100
MESSAGES = {
    "model": "ModelProto",
    "graph": "GraphProto",
    "node": "NodeProto",
    "attribute": "AttributeProto",
    "tensor": "TensorProto",
    "sparse": "SparseTensorProto",
    "function": "FunctionProto",
    "training": "TrainingInfoProto",
}


def external(**entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


GOOD = external(location="weights.bin", offset=8, length=4)
OUTSIDE = external(location="../secret", offset=0, length=4)


def model(*initializers: TensorProto) -> ModelProto:
    return helper.make_model(helper.make_graph([], "g", [], [], list(initializers)))


@pytest.fixture
def check(tmp_path: Path) -> Callable[[bytes], None]:
    """Check a graph that lies beside a weights file."""
    (tmp_path / "weights.bin").write_bytes(bytes(WEIGHTS_BYTES))

    def check(content: bytes) -> None:
        (tmp_path / "graph.onnx").write_bytes(content)
        check_graph_files(tmp_path / "graph.onnx", tmp_path / "weights.bin")

    return check


def test_the_walk_knows_every_way_to_a_tensor() -> None:
    """Computed from ONNX's own schema: no message that can hold a tensor is skipped."""
    descriptors = {name: onnx.ModelProto.DESCRIPTOR.file.message_types_by_name[name] for name in MESSAGES.values()}

    def reaches_tensor(found: Descriptor, seen: frozenset[str]) -> bool:
        if found.name == "TensorProto":
            return True
        if found.name in seen:
            return False
        inner = [field.message_type for field in found.fields if field.message_type is not None]
        return any(reaches_tensor(each, seen | {found.name}) for each in inner)

    for kind, name in MESSAGES.items():
        if kind == "tensor":
            continue
        ways = {
            field.number: field.message_type.name
            for field in descriptors[name].fields
            if field.message_type is not None and reaches_tensor(field.message_type, frozenset())
        }
        assert {number: MESSAGES[inner] for number, inner in FIELDS[kind].items()} == ways  # type: ignore[index]
    tensor = descriptors["TensorProto"].fields_by_name
    assert tensor["external_data"].number == TENSOR_EXTERNAL_DATA
    assert tensor["data_location"].number == TENSOR_DATA_LOCATION


def test_the_graphs_of_a_family_pass_and_open(family: Family) -> None:
    folder, manifest = family
    for member in manifest.members:
        open_training_engine(folder, manifest, member.key)


def test_a_graph_that_reaches_outside_is_not_opened(family: Family) -> None:
    folder, manifest = family
    key = MemberKey(depth=1, quantized_layers=1)
    path = folder / "onnx/train-d01-q01.onnx"
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("weights.bin", "../tokenizer/tokenizer.json")
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(UnsafeGraphError, match=r"lies in '\.\./tokenizer/tokenizer\.json'"):
        open_training_engine(folder, manifest, key)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (OUTSIDE, r"lies in '\.\./secret'"),
        (external(location="/etc/passwd", offset=0, length=4), "lies in '/etc/passwd'"),
        (external(location="*/_ORT_MEM_ADDR_/*", offset=140737488355328, length=4), "_ORT_MEM_ADDR_"),
        (external(location="./weights.bin", offset=0, length=4), r"lies in '\./weights"),
        (external(location="weights.bin\x00x", offset=0, length=4), "lies in"),
        (external(location="", offset=0, length=4), "lies in ''"),
        (external(location="weights.bin", offset=97, length=4), "ends at byte 101"),
        (external(location="weights.bin", offset=10**17, length=4), "ends at byte"),
        (external(location="weights.bin", offset=2**64, length=4), "the offset of a tensor is"),
        (external(location="weights.bin", offset=-1, length=4), "the offset of a tensor is '-1'"),
        (external(location="weights.bin", offset="\u0663", length=4), "the offset of a tensor is"),
        (external(location="weights.bin", offset=0, length="1e1"), "the length of a tensor is"),
        (external(location="weights.bin", offset=0), "is described by"),
        (external(location="weights.bin"), "is described by"),
        (external(), "is described by"),
        (external(location="weights.bin", offset=0, length=4, basepath=".."), "is described by"),
    ],
)
def test_a_tensor_outside_the_weights_is_refused(
    check: Callable[[bytes], None], tensor: TensorProto, problem: str
) -> None:
    with pytest.raises(UnsafeGraphError, match=problem):
        check(model(GOOD, tensor).SerializeToString())


def test_an_entry_that_is_stated_twice_is_refused(check: Callable[[bytes], None]) -> None:
    doubled = external(location="weights.bin", offset=8, length=4)
    doubled.external_data.add(key="location", value="../secret")
    with pytest.raises(UnsafeGraphError, match="states its 'location' twice"):
        check(model(doubled).SerializeToString())


def hidden(tensor: TensorProto) -> dict[str, ModelProto]:
    """The same tensor in every place where a model may keep one."""
    places = {name: model() for name in ("attribute", "list", "branch", "deep", "sparse", "function", "training")}
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    places["attribute"].graph.node.append(node)
    places["list"].graph.node.append(helper.make_node("Custom", [], ["c"], values=[GOOD, tensor]))
    inner = helper.make_graph([node], "inner", [], [])
    places["branch"].graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    for _ in range(20):
        inner = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "inner", [], [])
    places["deep"].graph.CopyFrom(inner)
    places["sparse"].graph.sparse_initializer.add().values.CopyFrom(tensor)
    places["function"].functions.append(helper.make_function("d", "F", [], ["c"], [node], []))
    places["training"].training_info.add().algorithm.CopyFrom(helper.make_graph([node], "t", [], []))
    return places


@pytest.mark.parametrize("place", list(hidden(OUTSIDE)))
def test_a_tensor_is_found_wherever_it_hides(check: Callable[[bytes], None], place: str) -> None:
    with pytest.raises(UnsafeGraphError, match=r"lies in '\.\./secret'"):
        check(hidden(OUTSIDE)[place].SerializeToString())


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05abc", b"\x3b\x3c", b"\x38\x01", b"<html>", b"\x80"],
)
def test_bytes_that_are_no_graph_are_refused(check: Callable[[bytes], None], content: bytes) -> None:
    with pytest.raises(UnsafeGraphError):
        check(content)


def test_thousands_of_graphs_in_each_other_are_walked_without_recursion() -> None:
    content = _field(5, OUTSIDE.SerializeToString())
    for _ in range(3000):
        content = _field(1, _field(5, _field(6, content)))
    (found,) = external_tensors(memoryview(_field(7, content)))
    assert found["location"] == "../secret"


def _field(number: int, content: bytes) -> bytes:
    length = len(content)
    out = bytearray([number << 3 | 2])
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*out, length]) + content


def test_weights_that_are_absent_or_elsewhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(model(GOOD).SerializeToString())
    with pytest.raises(QuadloomError, match=r"weights\.bin cannot be read"):
        check_graph_files(tmp_path / "graph.onnx", tmp_path / "weights.bin")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/weights.bin").write_bytes(bytes(WEIGHTS_BYTES))
    with pytest.raises(UnsafeGraphError, match="do not lie beside it"):
        check_graph_files(tmp_path / "graph.onnx", tmp_path / "other/weights.bin")


def _all_tensors(value: Any) -> list[TensorProto]:
    if isinstance(value, TensorProto):
        return [value]
    return list(
        itertools.chain.from_iterable(
            _all_tensors(each)
            for field, found in value.ListFields()
            if field.message_type is not None
            for each in (found if field.is_repeated else [found])
        )
    )


SEEDS = [model(GOOD).SerializeToString(), *(each.SerializeToString() for each in hidden(GOOD).values())]


@given(st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_passes_holds_for_every_tensor_that_onnx_finds(
    check: Callable[[bytes], None], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        check(bytes(content))
    except UnsafeGraphError:
        return
    try:
        parsed = ModelProto.FromString(bytes(content))
    except DecodeError:
        return
    for tensor in _all_tensors(parsed):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            found = {entry.key: entry.value for entry in tensor.external_data}
            assert found["location"] == "weights.bin"
            assert int(found["offset"]) + int(found["length"]) <= WEIGHTS_BYTES
