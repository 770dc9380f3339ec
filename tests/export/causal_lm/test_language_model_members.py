"""Members of causal language models, run by ONNX Runtime, against PyTorch eager with transformers' own loss."""

from collections.abc import Mapping

import numpy as np
import pytest

LAYERS = 3
BATCH_SIZE = 8
"""Rows that the graphs were traced for; every other number must work too."""


def relative_l2(found: Mapping, expected: Mapping) -> float:
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


@pytest.mark.parametrize("rows", [BATCH_SIZE, 1, 3])
@pytest.mark.parametrize("depth", [1, LAYERS])
def test_unquantized_members_have_the_gradients_of_pytorch(tiny, depth, rows):
    parameters, batch = tiny.parameters(), tiny.batch(rows)
    expected, found = tiny.eager(parameters, batch), tiny.step(parameters, batch, depth=depth)
    assert relative_l2(found.gradients, expected.gradients) <= 1e-5
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)


def test_quantized_members_stay_close_on_every_batch(tiny):
    for seed in range(4):
        parameters, batch = tiny.parameters(), tiny.batch(BATCH_SIZE, seed=seed)
        found = tiny.step(parameters, batch, quantized_layers=LAYERS)
        expected = tiny.eager(parameters, batch)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert 1e-5 < relative_l2(found.gradients, expected.gradients) <= 0.02, "at least something is quantized"


@pytest.mark.parametrize("rows", [BATCH_SIZE, 1, 3])
def test_the_evaluation_graph_has_the_loss_and_counts_of_pytorch_and_gives_no_logits(tiny, rows):
    parameters, batch = tiny.parameters(), tiny.batch(rows)
    expected, found = tiny.eager(parameters, batch), tiny.evaluate(parameters, batch)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)
    assert found.logits is None


@pytest.mark.parametrize("depth", [1, LAYERS])
def test_a_member_trains_the_adapters_of_its_own_layers_and_nothing_else(tiny, depth):
    layer_of = {row.name: row.layer for row in tiny.model.parameters}
    assert "head" not in layer_of.values()
    trained = {name for name, layer in layer_of.items() if layer >= LAYERS - depth}
    found = tiny.step(tiny.parameters(), tiny.batch(2), depth=depth).gradients
    assert set(found) == trained
    if depth == LAYERS:
        assert trained == set(tiny.eager(tiny.parameters(), tiny.batch(2)).gradients)


def test_some_predictions_of_the_reference_are_right(llama):
    """Or the comparison of counts says nothing."""
    batch = llama.batch(BATCH_SIZE)
    batch["input_ids"][:, 1:] = batch["input_ids"][:, :1]
    batch["labels"] = batch["labels"].where(batch["labels"] == -100, batch["input_ids"])
    expected = llama.eager(llama.parameters(), batch)
    found = llama.evaluate(llama.parameters(), batch)
    assert 0 < expected.correct < expected.examples
    assert found.correct == expected.correct


def test_padding_rows_and_tokens_add_nothing(tiny):
    parameters, batch = tiny.parameters(), tiny.batch(4)
    plain = tiny.step(parameters, batch)
    changed = {name: value.clone() for name, value in batch.items()}
    changed["input_ids"][batch["attention_mask"] == 0] = 7  # whatever stands in the padding
    changed["input_ids"][3] = 9  # a row whose labels do not count
    found = tiny.step(parameters, changed)
    assert (found.loss, found.correct, found.examples) == (plain.loss, plain.correct, plain.examples)
    assert relative_l2(found.gradients, plain.gradients) <= 1e-6


def test_a_batch_of_padding_rows_alone_has_zero_loss_and_gradients(tiny):
    batch = tiny.batch(2)
    batch["labels"][:] = -100
    found = tiny.step(tiny.parameters(), batch, quantized_layers=LAYERS)
    assert (found.loss, found.examples, found.correct) == (0.0, 0, 0)
    assert all(not value.any() for value in found.gradients.values())


def test_tied_embeddings_and_rotary_tables_lie_in_the_weights_once(llama, make_language_model):
    untied = make_language_model("llama-all-linear").weights
    assert "model.embed_tokens.weight" in llama.weights
    assert "lm_head.weight" not in llama.weights
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied)
    trained = {name.removesuffix(".weight") for name in llama.model.trainable}
    assert not trained & set(llama.weights)
    shapes = {name: tuple(llama.training.frozen[name].shape) for name in llama.weights}
    tables = [shape for name, shape in shapes.items() if name.startswith("constant.") and shape[-1:] == (8,)]
    assert sorted(tables) == [(1, 1, 16, 8)] * 2, "one table of cosines, one of sines"
