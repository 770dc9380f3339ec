"""ExecuTorch members, run by the plain runtime, against PyTorch eager with an adapter that PEFT alone put on."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quadloom_export.liveness import plan_memory
from quadloom_export.lowering.executorch import (
    METHOD,
    ExecutorchMember,
    input_specs,
    lower_to_executorch,
    output_specs,
    save,
    weights_file,
)
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine, ExecutorchTrainingEngine
from quadloom_runtime.errors import QuadloomError

pytest.importorskip("executorch")

LAYERS = 3
BATCH_SIZE = 8
DEPTHS = {"bert": LAYERS, "roberta": 1, "distilbert": 1, "mpnet": 1, "deberta": 1}
"""Lowering takes seconds per layer: one architecture shows the whole depth."""


@cache
def lowered(tiny, depth: int, quantized_layers: int) -> ExecutorchMember:
    return lower_to_executorch(tiny.member(depth, quantized_layers))


@cache
def weights(tiny) -> Path:
    path = tiny.folder / "weights.ptd"
    save(weights_file(tiny.training, tiny.evaluation), path)
    return path


@cache
def training_engine(tiny, depth: int, quantized_layers: int) -> ExecutorchTrainingEngine:
    path = tiny.folder / f"d{depth}-q{quantized_layers}.pte"
    save(lowered(tiny, depth, quantized_layers).program, path)
    graph = tiny.member(depth, quantized_layers)
    specs = {"inputs": input_specs(graph), "outputs": output_specs(graph)}
    return ExecutorchTrainingEngine(path, weights(tiny), **specs, label=path.stem)


@cache
def evaluation_engine(tiny) -> ExecutorchEvaluationEngine:
    path, graph = tiny.folder / "eval.pte", tiny.evaluation
    save(lower_to_executorch(graph).program, path)
    return ExecutorchEvaluationEngine(path, weights(tiny), inputs=input_specs(graph), outputs=output_specs(graph))


def as_arrays(tensors: Mapping) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}


def as_batch(tensors: Mapping) -> Batch:
    found = as_arrays(tensors)
    found.setdefault("token_type_ids", np.zeros_like(found["input_ids"]))
    return Batch(**found)


def relative_l2(found: Mapping, expected: Mapping) -> float:
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


def lora_of(tiny, gradients: Mapping) -> dict:
    return {name: value for name, value in gradients.items() if tiny.layer_of()[name] != "head"}


def program_of(member: ExecutorchMember):
    """The schema's own reading of a program."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(member.program).program


def external_names(member: ExecutorchMember) -> set[str]:
    (plan,) = program_of(member).execution_plan
    tensors = [value.val for value in plan.values if hasattr(value.val, "extra_tensor_info")]
    infos = [tensor.extra_tensor_info for tensor in tensors if tensor.extra_tensor_info is not None]
    return {info.fully_qualified_name for info in infos if info.fully_qualified_name}


def names_in_weights_file(path: Path) -> set[str]:
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorConfig, FlatTensorSerializer

    return set(FlatTensorSerializer(FlatTensorConfig()).deserialize(Cord(path.read_bytes())).named_data)


@pytest.mark.parametrize(("name", "depth"), DEPTHS.items())
@pytest.mark.parametrize("rows", [BATCH_SIZE, 3])
class TestEveryArchitecture:
    def test_an_unquantized_member_has_the_gradients_of_pytorch(self, make_tiny, name, depth, rows):
        tiny = make_tiny(name)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected = tiny.eager(parameters, batch)
        found = training_engine(tiny, depth, 0).step(as_arrays(parameters), as_batch(batch))
        assert set(found.gradients) == set(tiny.step(parameters, batch, depth=depth).gradients)
        assert relative_l2(lora_of(tiny, found.gradients), expected.gradients) <= 1e-5
        assert relative_l2(found.gradients, expected.gradients) <= 1e-5
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)

    def test_a_quantized_member_stays_close(self, make_tiny, name, depth, rows):
        tiny = make_tiny(name)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected = tiny.eager(parameters, batch)
        found = training_engine(tiny, depth, depth).step(as_arrays(parameters), as_batch(batch))
        error = relative_l2(lora_of(tiny, found.gradients), expected.gradients)
        assert 1e-5 < error <= 0.02, "below the lower bound nothing was quantized"
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_step_leaves_nothing_behind_for_the_next(bert):
    engine, parameters = training_engine(bert, LAYERS, LAYERS), as_arrays(bert.parameters())
    first = engine.step(parameters, as_batch(bert.batch(BATCH_SIZE, seed=1)))
    kept = {name: value.copy() for name, value in first.gradients.items()}
    engine.step(parameters, as_batch(bert.batch(2, seed=2)))
    again = engine.step(parameters, as_batch(bert.batch(BATCH_SIZE, seed=1)))
    for name, value in kept.items():
        np.testing.assert_array_equal(first.gradients[name], value, "the arena was handed out")
        np.testing.assert_array_equal(again.gradients[name], value)


@pytest.mark.parametrize("rows", [BATCH_SIZE, 3])
def test_the_evaluation_program_has_the_logits_of_pytorch(bert, rows):
    parameters, batch = bert.parameters(), bert.batch(rows)
    expected = bert.eager(parameters, batch)
    found = evaluation_engine(bert).evaluate(as_arrays(parameters), as_batch(batch))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)


@pytest.mark.parametrize("quantized_layers", [0, LAYERS])
def test_the_arena_in_the_file_is_the_plan_and_close_to_what_is_alive_at_once(bert, quantized_layers):
    member = lowered(bert, LAYERS, quantized_layers)
    (plan,) = program_of(member).execution_plan
    assert plan.non_const_buffer_sizes == [0, member.arena_bytes]
    assert member.arena_lower_bound_bytes <= member.arena_bytes <= 1.01 * member.arena_lower_bound_bytes
    # The other plan knows neither ExecuTorch nor what the lowering expands quantization to.
    assert member.arena_bytes == pytest.approx(plan_memory(bert.member(LAYERS, quantized_layers)).peak_bytes, rel=0.01)


def test_all_programs_have_one_method_and_take_their_weights_by_canonical_name_from_one_file(bert):
    stored = names_in_weights_file(weights(bert))
    assert stored == set(bert.training.inputs_of("frozen")) | set(bert.evaluation.inputs_of("frozen"))
    for member in (lowered(bert, LAYERS, 0), lowered(bert, LAYERS, LAYERS)):
        (plan,) = program_of(member).execution_plan
        assert plan.name == METHOD
        used = external_names(member)
        assert used <= stored
        assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"} <= used


def test_a_batch_longer_than_the_program_is_refused_by_name(bert):
    with pytest.raises(QuadloomError, match="9 rows does not fit a program made for 8"):
        training_engine(bert, LAYERS, 0).step(as_arrays(bert.parameters()), as_batch(bert.batch(9)))


def test_a_batch_of_padding_rows_alone_has_zero_loss_and_gradients(bert):
    batch = as_batch(bert.batch(2))
    batch = replace(batch, labels=np.full_like(batch.labels, -100))
    found = training_engine(bert, LAYERS, LAYERS).step(as_arrays(bert.parameters()), batch)
    assert (found.loss, found.examples, found.correct) == (0.0, 0, 0)
    assert all(not value.any() for value in found.gradients.values())


def test_a_broken_program_is_refused_with_its_path(bert, tmp_path):
    path = tmp_path / "broken.pte"
    path.write_bytes(lowered(bert, LAYERS, 0).program[:1000])
    with pytest.raises(QuadloomError, match=r"broken\.pte"):
        ExecutorchTrainingEngine(path, weights(bert), inputs=(), outputs=(), label="broken")
