"""Members in onnxruntime-training, against its own `generate_artifacts`, PyTorch and the plain format."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.ort_training import CHECKPOINT_SUFFIX, OrtTrainingEngine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.optimizers import AdamW

LAYERS = 3
RATE = 3e-3
STEPS = 5


def as_batch(tensors: Mapping[str, torch.Tensor]) -> Batch:
    found = {name: value.numpy() for name, value in tensors.items()}
    token_types = found.get("token_type_ids", np.zeros_like(found["input_ids"]))
    return Batch(found["input_ids"], found["attention_mask"], token_types, found["labels"])


def relative_l2(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


def torch_steps(bert: Any, trained: set[str], batches: list[Any], *, weight_decay: float) -> tuple[list[float], dict]:
    """Losses and parameters of `torch.optim.AdamW` on the PEFT model."""
    parameters = {name: nn.Parameter(value) for name, value in bert.parameters().items()}
    optimizer = torch.optim.AdamW([parameters[name] for name in trained], lr=RATE, weight_decay=weight_decay)
    losses = []
    for batch in batches:
        found = bert.eager({name: value.detach() for name, value in parameters.items()}, batch)
        losses.append(found.loss)
        for name in trained:
            parameters[name].grad = torch.from_numpy(found.gradients[name])
        optimizer.step()
    return losses, {name: value.detach().numpy() for name, value in parameters.items()}


@pytest.mark.parametrize("depth", [0, 1, LAYERS])
def test_gradients_equal_those_of_generate_artifacts(bert, open_member, reference, depth):
    engine = open_member(bert, depth=depth)
    parameters, batch = {name: value.numpy() for name, value in bert.parameters().items()}, bert.batch(8)
    found = engine.step(parameters, as_batch(batch))
    loss, gradients = reference(bert, set(found.gradients), weight_decay=0.0).step(batch)
    assert set(found.gradients) == set(gradients)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        assert relative_l2({name: found.gradients[name]}, {name: gradient}) <= 1e-5


@pytest.mark.parametrize(("quantized", "least", "most"), [(0, 0.0, 1e-5), (LAYERS, 1e-5, 0.01)])
def test_int8_weights_give_the_gradients_of_pytorch_with_rounded_weights(
    make_tiny, open_member, quantized, least, most
):
    tiny = make_tiny("bert", int8=True)
    engine = open_member(tiny, depth=LAYERS, quantized_layers=quantized)
    parameters, batch = {name: value.numpy() for name, value in tiny.parameters().items()}, tiny.batch(8)
    found, expected = engine.step(parameters, as_batch(batch)), tiny.eager(tiny.parameters(), batch)
    lora = {name: value for name, value in found.gradients.items() if "lora_" in name}
    assert least <= relative_l2(lora, expected.gradients) <= most
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("depth", [1, LAYERS])
def test_five_native_steps_equal_generate_artifacts_and_torch(bert, open_member, reference, depth, weight_decay):
    engine = open_member(bert, depth=depth, weight_decay=weight_decay)
    start = engine.parameters
    batches = [bert.batch(8, seed=seed) for seed in range(STEPS)]
    losses = [engine.train(as_batch(batch), learning_rate=RATE).loss for batch in batches]
    trained = {name for name, layer in bert.layer_of().items() if layer == "head" or layer >= LAYERS - depth}

    theirs = reference(bert, trained, weight_decay=weight_decay)
    their_losses = [theirs.train(batch, learning_rate=RATE) for batch in batches]
    torch_losses, torch_parameters = torch_steps(bert, trained, batches, weight_decay=weight_decay)

    np.testing.assert_allclose(losses, their_losses, rtol=1e-5)
    np.testing.assert_allclose(losses, torch_losses, rtol=1e-5)
    for name in trained:
        assert np.abs(engine.parameters[name] - start[name]).max() > RATE, "five steps must have moved it"
        np.testing.assert_allclose(engine.parameters[name], theirs.parameters[name], atol=1e-5, rtol=0)
        np.testing.assert_allclose(engine.parameters[name], torch_parameters[name], atol=1e-5, rtol=0)
    for name in start.keys() - trained:
        assert (engine.parameters[name] == start[name]).all()


@pytest.mark.parametrize("quantized_layers", [0, LAYERS])
def test_native_steps_equal_the_engines_step_with_the_runtimes_optimizer(bert, open_member, quantized_layers):
    batches = [as_batch(bert.batch(8, seed=seed)) for seed in range(STEPS)]
    native, plain = (open_member(bert, depth=LAYERS, quantized_layers=quantized_layers) for _ in range(2))
    parameters, optimizer = plain.parameters, AdamW()
    for batch in batches:
        native.train(batch, learning_rate=RATE)
        gradients = plain.step(parameters, batch).gradients
        optimizer.update(parameters, gradients, dict.fromkeys(gradients, RATE))
    for name, value in parameters.items():
        np.testing.assert_allclose(native.parameters[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [8, 1, 5])
@pytest.mark.parametrize(("depth", "quantized_layers"), [(0, 0), (2, 0), (LAYERS, LAYERS)])
def test_a_member_computes_what_its_plain_onnx_form_computes(tiny, open_member, depth, quantized_layers, rows):
    parameters, batch = tiny.parameters(), tiny.batch(rows)
    expected = tiny.step(parameters, batch, depth=depth, quantized_layers=quantized_layers)
    engine = open_member(tiny, depth=depth, quantized_layers=quantized_layers)
    values = {name: value.numpy() for name, value in parameters.items()}
    for _ in range(2):  # the second step must not see the gradients of the first
        found = engine.step(values, as_batch(batch))
        assert (found.loss, found.correct, found.examples) == (expected.loss, expected.correct, expected.examples)
        assert set(found.gradients) == set(expected.gradients)
        for name, gradient in expected.gradients.items():
            np.testing.assert_array_equal(found.gradients[name], gradient)


def test_parameters_given_to_a_step_replace_those_of_the_checkpoint(bert, open_member):
    engine = open_member(bert, depth=1)
    other, batch = bert.parameters(seed=9), bert.batch(8)
    found = engine.step({name: value.numpy() for name, value in other.items()}, as_batch(batch))
    assert found.loss == pytest.approx(bert.eager(other, batch).loss, rel=1e-5)
    assert found.loss != pytest.approx(bert.eager(bert.parameters(), batch).loss, rel=1e-5)


def test_evaluation_equals_pytorch(tiny, open_member):
    engine = open_member(tiny, depth=1)
    expected = tiny.eager(tiny.parameters(), tiny.batch(5))
    found = engine.evaluate(engine.parameters, as_batch(tiny.batch(5)))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def test_the_checkpoint_is_the_one_that_the_package_would_write(bert, tmp_path):
    from onnx import numpy_helper
    from onnxruntime.training.api import CheckpointState
    from onnxruntime.training.onnxblock import save_checkpoint as save_theirs

    from quadloom_export.lowering.ort_checkpoint import save_checkpoint

    values = {name: value.numpy() for name, value in bert.parameters().items()}
    trained = dict(list(values.items())[::2])
    untrained = {name: value for name, value in values.items() if name not in trained}
    save_checkpoint(tmp_path / "ours", trained=trained, untrained=untrained)
    protos = [[numpy_helper.from_array(value, name) for name, value in each.items()] for each in (trained, untrained)]
    save_theirs(tuple(protos), str(tmp_path / "theirs"))
    ours, theirs = (CheckpointState.load_checkpoint(str(tmp_path / name)) for name in ("ours", "theirs"))
    found, expected = dict(iter(ours.parameters)), dict(iter(theirs.parameters))
    assert found.keys() == expected.keys() == values.keys()
    for name, parameter in expected.items():
        assert found[name].requires_grad == parameter.requires_grad == (name in trained)
        np.testing.assert_array_equal(found[name].data, parameter.data)
        np.testing.assert_array_equal(found[name].data, values[name])


def test_stored_training_goes_on_as_if_it_had_not_stopped(bert, open_member, tmp_path):
    batches = [as_batch(bert.batch(8, seed=seed)) for seed in range(4)]
    straight, halted = open_member(bert, depth=1), open_member(bert, depth=1)
    for batch in batches:
        straight.train(batch, learning_rate=RATE)
    for batch in batches[:2]:
        halted.train(batch, learning_rate=RATE)
    graph = tmp_path / "ort-train-d01-q00.onnx"
    halted.save(graph.with_suffix(CHECKPOINT_SUFFIX))
    again = OrtTrainingEngine(graph, label="d01-q00")
    for batch in batches[2:]:
        again.train(batch, learning_rate=RATE)
    for name, value in straight.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value)


@pytest.mark.parametrize(
    "lost", ["ort-train-d01-q00.onnx", "ort-train-d01-q00.checkpoint", "ort-eval.onnx", "weights.bin"]
)
def test_a_member_without_one_of_its_files_is_refused_by_name(bert, open_member, tmp_path, lost):
    open_member(bert, depth=1)
    (tmp_path / lost).unlink()
    with pytest.raises(QuadloomError, match="d01-q00"):
        OrtTrainingEngine(tmp_path / "ort-train-d01-q00.onnx", label="d01-q00")
