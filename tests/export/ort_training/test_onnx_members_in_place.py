"""Plain members in the oldest ONNX Runtime that is supported: 1.19, of which the training package is a build."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.export.conftest import as_batch

from quadloom_export.lowering.onnx import input_specs, lower_to_onnx, output_specs, translate_graph
from quadloom_runtime.engines.onnx import OnnxEvaluationEngine, OnnxTrainingEngine, session_options
from quadloom_runtime.engines.onnx_arena import METADATA_KEY
from quadloom_runtime.errors import QuadloomError

LAYERS, BATCH_SIZE = 3, 8
EXACT = 1e-5


def relative_l2(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


def open_training(tiny: Any, joint: Any, content: bytes) -> OnnxTrainingEngine:
    path = tiny.folder / "in-place.onnx"
    path.write_bytes(content)
    return OnnxTrainingEngine(path, inputs=input_specs(joint), outputs=output_specs(joint), label="in-place")


def test_the_package_is_the_oldest_that_is_supported():
    assert onnxruntime.__version__.startswith("1.19.")


@pytest.mark.parametrize(("depth", "quantized", "bits"), [(LAYERS, LAYERS, 8), (2, 2, 4)])
def test_a_member_runs_in_the_planned_order(tiny, depth, quantized, bits):
    """ONNX Runtime's own profile, against the order in which the lowering emitted the nodes."""
    joint = tiny.member(depth, quantized, bits=bits)
    path = tiny.folder / "profiled.onnx"
    path.write_bytes(lower_to_onnx(joint, tiny.weights).content)
    options = session_options(threads=1)
    options.enable_profiling, options.profile_file_prefix = True, str(tiny.folder / "profile")
    session = onnxruntime.InferenceSession(path, options)
    feeds = {name: value.numpy() for name, value in {**tiny.parameters(), **tiny.batch(3)}.items()}
    session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()})
    names = [each["name"] for each in json.loads(Path(session.end_profiling()).read_text())]
    ran = [name.removesuffix("_kernel_time") for name in names if name.endswith("_kernel_time")]
    emitted = [node.name for node in translate_graph(joint, tiny.weights).nodes]
    assert [name for name in ran if not name.endswith("/order")] == emitted


@pytest.mark.parametrize(
    ("depth", "quantized", "bits", "largest_error"),
    [(0, 0, 8, EXACT), (1, 0, 8, EXACT), (LAYERS, 0, 8, EXACT), (LAYERS, LAYERS, 8, 0.01), (2, 2, 4, 0.16)],
)
def test_a_member_in_its_arena_has_the_gradients_of_pytorch(tiny, depth, quantized, bits, largest_error):
    joint = tiny.member(depth, quantized, bits=bits)
    engine = open_training(tiny, joint, lower_to_onnx(joint, tiny.weights).content)
    parameters = tiny.parameters()
    values = {name: value.numpy() for name, value in parameters.items()}
    for rows in (BATCH_SIZE, 1, 2 * BATCH_SIZE + 3, BATCH_SIZE):
        expected, found = tiny.eager(parameters, tiny.batch(rows)), engine.step(values, as_batch(tiny.batch(rows)))
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)
        lora = {name: value for name, value in found.gradients.items() if tiny.layer_of()[name] != "head"}
        head = {name: value for name, value in found.gradients.items() if name not in lora}
        assert relative_l2(head, expected.gradients) <= EXACT
        if lora and (rows == BATCH_SIZE or not quantized):  # what a single row loses may be more
            assert relative_l2(lora, expected.gradients) <= largest_error


def test_evaluation_in_its_arena_equals_pytorch(bert):
    path = bert.folder / "eval-in-place.onnx"
    path.write_bytes(lower_to_onnx(bert.evaluation, bert.weights).content)
    specs = {"inputs": input_specs(bert.evaluation), "outputs": output_specs(bert.evaluation)}
    engine, parameters = OnnxEvaluationEngine(path, **specs), bert.parameters()
    values = {name: value.numpy() for name, value in parameters.items()}
    for rows in (5, 2 * BATCH_SIZE + 1):
        expected, found = bert.eager(parameters, bert.batch(rows)), engine.evaluate(values, as_batch(bert.batch(rows)))
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def altered(content: bytes, change: Any) -> bytes:
    """The file with another table."""
    model = onnx.ModelProto.FromString(content)
    (entry,) = (each for each in model.metadata_props if each.key == METADATA_KEY)
    fields = json.loads(entry.value)
    change(fields)
    entry.value = json.dumps(fields)
    return model.SerializeToString()


def test_a_member_that_was_planned_in_another_order_is_refused(bert):
    joint = bert.member(1)
    content = altered(lower_to_onnx(joint, bert.weights).content, lambda fields: fields.update(order_sha256="0" * 64))
    with pytest.raises(QuadloomError, match=r"onnxruntime 1\.19\.\S+ does not run .*in-place\.onnx in the order"):
        open_training(bert, joint, content)


@pytest.mark.parametrize("lie", [{1: "int8"}, {1: "int64"}, {1: "int32"}, {2: [1, 1]}, {2: [-1]}, {0: "nobody"}])
def test_a_table_that_is_wrong_about_a_tensor_is_refused(bert, lie):
    """Already this version checks what it is given for an output before it writes there."""
    joint = bert.member(1)

    def change(fields: dict[str, Any]) -> None:
        row = next(row for row in fields["tensors"] if row[1] == "float32" and row[0] not in joint.outputs)
        for index, value in lie.items():
            row[index] = value
        fields["size_bytes"] *= 4

    content = altered(lower_to_onnx(joint, bert.weights).content, change)
    with pytest.raises(QuadloomError, match="in-place"):
        open_training(bert, joint, content)
