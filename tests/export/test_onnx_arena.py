"""The arena of real members: nobody reads bytes that another tensor has taken, and the file says nothing else."""

import operator
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto
from tests.export.conftest import as_batch
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, emit
from quadloom_export.lowering.onnx import OnnxFile, input_specs, lower_to_onnx, output_specs
from quadloom_export.lowering.onnx_layout import default_execution_order
from quadloom_runtime.engines.onnx import OnnxTrainingEngine, open_graph, session_options
from quadloom_runtime.engines.onnx_arena import ALIGNMENT_BYTES, METADATA_KEY, ArenaTable

aten = torch.ops.aten
LAYERS, BATCH_SIZE = 3, 8
LARGE_BYTES = 4096
MEMBERS = {
    "head only": (0, 0, 8),
    "one layer": (1, 0, 8),
    "all layers": (LAYERS, 0, 8),
    "some quantized": (LAYERS, 2, 8),
    "all quantized": (LAYERS, LAYERS, 8),
    "four bits": (2, 2, 4),
}
GRAPHS = [*MEMBERS, "evaluation"]


def graph_of(tiny: Any, name: str) -> JointGraph:
    if name == "evaluation":
        return tiny.evaluation
    depth, quantized_layers, bits = MEMBERS[name]
    return tiny.member(depth, quantized_layers, bits=bits)


@cache
def lowered(tiny: Any, name: str) -> OnnxFile:
    """Each member's file, made once."""
    return lower_to_onnx(graph_of(tiny, name), tiny.weights)


def model_of(tiny: Any, name: str) -> ModelProto:
    return ModelProto.FromString(lowered(tiny, name).content)


def table_of(model: ModelProto) -> ArenaTable:
    (entry,) = model.metadata_props
    assert entry.key == METADATA_KEY
    return ArenaTable.from_json(entry.value)


# Who wrote a byte last.


@dataclass(frozen=True)
class Place:
    """A stretch of the arena, for a batch of the planned size."""

    first: int
    end: int


def places_of(table: ArenaTable) -> dict[str, Place]:
    sizes = {"float32": 4, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
    found = {}
    for each in table.tensors:
        elements = 1
        for size in each.shape:
            elements *= -size * table.batch_size if size < 0 else size
        found[each.name] = Place(each.offset, each.offset + elements * sizes[each.dtype])
    assert len(found) == len(table.tensors), "a tensor has two places"
    assert table.size_bytes >= max(place.end for place in found.values())
    return found


IN_PLACE = {"Add", "Sub", "Mul", "Div", "Neg", "Exp", "Sqrt", "Reciprocal", "Softmax"}
IN_PLACE |= {"BitShift", "BitwiseAnd", "BitwiseOr"}
"""Kernels that ONNX Runtime's own planner lets write over an operand, or that read each row before they write it."""


def faults(nodes: Sequence[NodeProto], places: Mapping[str, Place], results: Sequence[str]) -> Iterator[str]:
    """Run nodes on a shadow of the arena that holds, for each byte, who wrote it last.

    A Reshape may be one in name alone, so who reads what it makes reads its source.
    """
    shadow = np.full(max(place.end for place in places.values()), -1, dtype=np.int32)
    source: dict[str, str] = {}
    writer: dict[str, int] = {}

    def intact(name: str) -> bool:
        place = places[name]
        return bool((shadow[place.first : place.end] == writer[name]).all())

    for position, node in enumerate(nodes):
        # A Shape reads no byte of its tensor.
        read = {source.get(name, name) for name in node.input} if node.op_type != "Shape" else set()
        for name in read & places.keys():
            if name not in writer:
                yield f"{node.name} reads {name} before it is made"
            elif not intact(name):
                yield f"{node.name} reads {name}, of which a part was overwritten"
        for name in node.output:
            if node.op_type == "Reshape":
                viewed = source.get(node.input[0], node.input[0])
                if name not in places or places[name] == places.get(viewed):
                    source[name] = viewed
                    continue
            if name not in places:
                continue
            place = places[name]
            for other in (read | set(node.output)) - {name}:
                in_place = node.op_type in IN_PLACE and other in read and places.get(other) == place
                overlap = other in places and places[other].first < place.end and place.first < places[other].end
                if overlap and not in_place:
                    yield f"{node.name} writes {name} over {other} while it runs"
            shadow[place.first : place.end] = writer[name] = position
    for name in results:
        if not intact(source.get(name, name)):
            yield f"the result {name} was overwritten"
    yield from (f"{name} is placed, but nobody makes it" for name in places.keys() - writer.keys() - source.keys())


def in_order(model: ModelProto) -> list[NodeProto]:
    return [model.graph.node[index] for index in default_execution_order(list(model.graph.node))]


@pytest.mark.parametrize("name", GRAPHS)
def test_no_tensor_is_read_after_another_one_took_its_place(tiny, name):
    joint = graph_of(tiny, name)
    model = model_of(tiny, name)
    assert list(faults(in_order(model), places_of(table_of(model)), joint.outputs)) == []


@pytest.mark.parametrize("name", ["all layers", "all quantized"])
def test_places_are_shared_by_many_and_the_replay_would_see_one_too_many(bert, name):
    joint = graph_of(bert, name)
    model = model_of(bert, name)
    nodes, places = in_order(model), places_of(table_of(model))
    assert sum(place.end - place.first for place in places.values()) > 5 * table_of(model).size_bytes
    # Of a tensor that crosses from forward to backward, the place is given to one in between.
    made = {name: position for position, node in enumerate(nodes) for name in node.output}
    last_read = {name: position for position, node in enumerate(nodes) for name in node.input}
    crossing = max(places.keys() & last_read.keys(), key=lambda each: last_read[each] - made[each])
    between = (made[crossing] + last_read[crossing]) // 2
    intruder = next(output for node in nodes[between:] for output in node.output if output in places)
    begin, size_bytes = places[crossing].first, places[intruder].end - places[intruder].first
    moved = {**places, intruder: Place(begin, begin + size_bytes)}
    assert any(f"reads {crossing}" in fault for fault in faults(nodes, moved, joint.outputs))


# The file.


def cut(content: bytes) -> tuple[bytes, bytes]:
    """What stands before the second graph of a model file, and from it on: its fields are walked by hand."""
    graph_field, starts, place = 7, [], 0

    def varint() -> int:
        nonlocal place
        found = shift = 0
        while True:
            byte = content[place]
            place += 1
            found |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return found

    while place < len(content):
        start, tag = place, varint()
        if tag >> 3 == graph_field:
            starts.append(start)
        length = varint()
        place += length if tag & 7 == 2 else 0
    assert place == len(content)
    _, second = starts
    return content[:second], content[second:]


@pytest.mark.parametrize("name", GRAPHS)
def test_without_its_end_a_file_is_the_graph_of_the_manifest(bert, name):
    joint = graph_of(bert, name)
    start, end = map(ModelProto.FromString, cut(lowered(bert, name).content))
    assert [each.name for each in start.graph.output] == [each.name for each in output_specs(joint)]
    assert [each.name for each in start.graph.input] + [each.name for each in start.graph.initializer] != []
    assert not start.metadata_props
    # And the end is only what it takes to bind the tensors: outputs and the table.
    table = table_of(end)
    del end.metadata_props[:]
    placed = [each.name for each in start.graph.output] + [each.name for each in end.graph.output]
    del end.graph.output[:]
    assert end == ModelProto(graph=onnx.GraphProto())
    assert sorted(placed) == sorted(each.name for each in table.tensors)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_file_is_sound_with_and_without_its_end(bert, name):
    content = lowered(bert, name).content
    for part in (content, cut(content)[0]):
        (bert.folder / "checked.onnx").write_bytes(part)
        onnx.checker.check_model(bert.folder / "checked.onnx")


def feeds_of(tiny: Any, rows: int) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in {**tiny.parameters(), **tiny.batch(rows)}.items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_plain_session_computes_the_same_bits_from_the_file_without_its_end(bert, name):
    joint, path = graph_of(bert, name), bert.folder / "whole.onnx"
    path.write_bytes(lowered(bert, name).content)
    bound = open_graph(path, output_specs(joint), threads=1)
    (bert.folder / "plain.onnx").write_bytes(cut(path.read_bytes())[0])
    plain = onnxruntime.InferenceSession(bert.folder / "plain.onnx", session_options(threads=1))
    for rows in (BATCH_SIZE, 1, 19, BATCH_SIZE):
        feeds = {each.name: feeds_of(bert, rows)[each.name] for each in plain.get_inputs()}
        found = bound.run(feeds, batch_size=rows)
        assert found.keys() == set(joint.outputs)
        for result, value in zip(plain.get_outputs(), plain.run(None, feeds), strict=True):
            np.testing.assert_array_equal(found[result.name], value, strict=True)


def test_a_session_of_no_options_computes_the_same_but_for_rounding(bert):
    path = bert.folder / "plain.onnx"
    path.write_bytes(cut(lowered(bert, "all layers").content)[0])
    plain = onnxruntime.InferenceSession(path)
    feeds = {each.name: feeds_of(bert, 5)[each.name] for each in plain.get_inputs()}
    found = dict(zip((each.name for each in plain.get_outputs()), plain.run(None, feeds), strict=True))
    assert_is_step(found, bert.eager(bert.parameters(), bert.batch(5)))


def assert_is_step(found: Mapping[str, np.ndarray], eager: Any) -> None:
    assert float(found["loss"]) == pytest.approx(eager.loss, rel=1e-5)
    assert (int(found["correct_count"]), int(found["example_count"])) == (eager.correct, eager.examples)
    gradients = {name.removeprefix("gradient."): value for name, value in found.items() if name.startswith("gradient.")}
    assert gradients
    difference = sum(float(((value - eager.gradients[name]) ** 2).sum()) for name, value in gradients.items())
    norm = sum(float((eager.gradients[name] ** 2).sum()) for name in gradients)
    assert difference <= 1e-10 * norm


# The engine.


def written(tiny: Any, name: str) -> tuple[JointGraph, OnnxFile, Path]:
    joint = graph_of(tiny, name)
    path = tiny.folder / f"arena {name}.onnx"
    file = lowered(tiny, name)
    path.write_bytes(file.content)
    return joint, file, path


@pytest.mark.parametrize("name", ["one layer", "all layers"])
def test_an_engine_equals_pytorch_below_at_and_above_the_batch_that_was_planned(tiny, name):
    joint, _, path = written(tiny, name)
    graph = open_graph(path, output_specs(joint), threads=1)
    for rows in (1, BATCH_SIZE, BATCH_SIZE + 1, 3 * BATCH_SIZE, 3):
        feeds = {spec.name: feeds_of(tiny, rows)[spec.name] for spec in input_specs(joint)}
        found = graph.run(feeds, batch_size=rows)
        assert_is_step(found, tiny.eager(tiny.parameters(), tiny.batch(rows)))


@pytest.mark.parametrize("name", GRAPHS)
def test_an_engine_allocates_one_buffer_of_as_many_bytes_as_the_file_promises(bert, name):
    joint, file, path = written(bert, name)
    feeds = {rows: {spec.name: feeds_of(bert, rows)[spec.name] for spec in input_specs(joint)} for rows in (3, 8, 17)}
    for rows, times in ((3, 1), (BATCH_SIZE, 1), (17, 3)):
        graph = open_graph(path, output_specs(joint), threads=1)
        held = []
        tracemalloc.start()
        for _ in range(2):  # NumPy tells tracemalloc of every array
            graph.run(feeds[rows], batch_size=rows)
            held.append(sorted(trace.size for trace in tracemalloc.take_snapshot().traces))
        tracemalloc.stop()
        for sizes in held:
            assert 0 <= sizes[-1] - times * file.arena_bytes <= ALIGNMENT_BYTES
            assert sizes[-2] < file.arena_bytes / 10


def test_a_step_returns_arrays_of_its_own_not_the_buffer(bert):
    joint, _, path = written(bert, "one layer")
    engine = OnnxTrainingEngine(path, inputs=input_specs(joint), outputs=output_specs(joint), label="d01-q00")
    parameters = {name: value.numpy() for name, value in bert.parameters().items()}
    first = engine.step(parameters, as_batch(bert.batch(8)))
    copies = {name: value.copy() for name, value in first.gradients.items()}
    engine.step(parameters, as_batch(bert.batch(8, seed=9)))
    for name, value in copies.items():
        assert first.gradients[name].base is None
        np.testing.assert_array_equal(first.gradients[name], value)


# What has a place.


def views(model: ModelProto) -> dict[str, str]:
    """What each Reshape reads, itself no Reshape."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            found[node.output[0]] = found.get(node.input[0], node.input[0])
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_small_tensors_have_no_place_unless_they_are_results(tiny, name):
    joint = graph_of(tiny, name)
    model = model_of(tiny, name)
    places = places_of(table_of(model))
    of_results = {places[result] for result in joint.outputs}
    for place in places.values():
        if place not in of_results:
            assert place.end - place.first >= LARGE_BYTES


@pytest.mark.parametrize("name", ["one layer", "all layers", "all quantized", "evaluation"])
def test_every_large_tensor_has_a_place_or_is_a_view(bert, name):
    """Sizes are those of the tensors themselves, from a session that gives them all out.

    On the way to a scale or a zero point stand a few vectors of one number per group, which are left to ONNX Runtime.
    """
    model = model_of(bert, name)
    placed = {each.name for each in table_of(model).tensors}
    made = [tensor for node in model.graph.node for tensor in node.output if tensor]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in made)
    path = bert.folder / "all.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path, session_options(threads=1))
    feeds = {each.name: feeds_of(bert, BATCH_SIZE)[each.name] for each in session.get_inputs()}
    values = dict(zip(made, session.run(made, feeds), strict=True))
    large = {tensor for tensor, found in values.items() if found.nbytes >= LARGE_BYTES and found.ndim > 1}
    assert large - placed <= views(model).keys()
    assert len(large & placed) > 20


# Graphs that no model has.


@st.composite
def random_graphs(draw: st.DrawFn) -> JointGraph:
    """Wide tensors and views of them; results are any of them, the input and views of it among them, also twice."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta = {"phase": "forward", "layer": 0, "role": "batch", "key": "x"}
    for rows, (key, mode) in zip((4, 5), SHAPE_MODES.items(), strict=True):
        source.meta[key] = mode.from_tensor(torch.zeros(rows, 16, 64))

    def add(target: Any, *arguments: Any) -> fx.Node:
        return emit(graph, target, arguments, like=source)

    values, other_sizes = [source], []
    for _ in range(draw(st.integers(1, 12))):
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["add", "tanh", "view", "view", "norm", "sum", "flags"]))
        if kind == "add":
            values.append(add(aten.add.Tensor, *(add(aten.reshape.default, each, [-1, 16, 64]) for each in (a, b))))
        elif kind == "tanh":
            values.append(add(aten.tanh.default, a))
        elif kind == "view":
            values.append(add(aten.reshape.default, a, draw(st.sampled_from([[-1, 1024], [-1, 64], [-1, 8, 2, 64]]))))
        elif kind == "norm":
            norm = add(aten.native_layer_norm.default, a, [a.meta["val"].shape[-1]], None, None, 1e-5)
            values.append(add(operator.getitem, norm, 0))
            other_sizes.append(add(operator.getitem, norm, draw(st.sampled_from([1, 2]))))
        elif kind == "sum":
            rows = add(aten.sum.dim_IntList, add(aten.reshape.default, a, [-1, 1024]), [0], True)
            values.append(add(aten.add.Tensor, source, add(aten.reshape.default, rows, [1, 16, 64])))
            other_sizes += [rows, add(aten.reshape.default, rows, [32, 32])]
        else:
            other_sizes.append(add(aten.gt.Scalar, a, 0.5))
            values.append(add(aten.where.self, other_sizes[-1], a, add(aten.tanh.default, a)))
    results = draw(st.lists(st.sampled_from([*values, *other_sizes]), min_size=1, max_size=4))
    graph.output(tuple(results))
    names = tuple(f"result{index}" for index in range(len(results)))
    return JointGraph(graph, names, parameters=(), frozen={}, layers=1, depth=1, batch_size=4)


def assert_runs(joint: JointGraph) -> None:
    """The replay finds no fault, and ONNX Runtime computes what PyTorch does, whatever the batch."""
    file = lower_to_onnx(joint, {})
    model = ModelProto.FromString(file.content)
    assert list(faults(in_order(model), places_of(table_of(model)), joint.outputs)) == []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        path.write_bytes(file.content)
        bound = open_graph(path, output_specs(joint), threads=1)
        for rows in (4, 2, 9):
            x = torch.randn(rows, 16, 64, generator=torch.Generator().manual_seed(rows))
            found = bound.run({"x": x.numpy()}, batch_size=rows)
            for name, value in joint.run({}, {"x": x}).items():
                np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(random_graphs())
def test_any_graph_runs_in_its_arena(joint):
    assert_runs(joint)


def test_a_result_that_is_a_view_of_an_input_is_not_overwritten():
    """It is written where it stands, long before the end."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta = {"phase": "forward", "layer": 0, "role": "batch", "key": "x"}
    for rows, (key, mode) in zip((4, 5), SHAPE_MODES.items(), strict=True):
        x.meta[key] = mode.from_tensor(torch.zeros(rows, 16, 64))
    first = value = emit(graph, aten.reshape.default, (x, [-1, 1024]), like=x)
    for _ in range(4):
        value = emit(graph, aten.tanh.default, (value,), like=x)
    graph.output((first, value))
    assert_runs(JointGraph(graph, ("view", "end"), parameters=(), frozen={}, layers=1, depth=1, batch_size=4))
