"""Every member, run by ONNX Runtime, against PyTorch eager with an adapter that PEFT alone put on."""

from collections.abc import Mapping

import numpy as np
import pytest

LAYERS = 3
BATCH_SIZE = 8
"""Rows that the graphs were traced for; every other number must work too."""


def relative_l2(found: Mapping, expected: Mapping) -> float:
    difference = sum(float(((found[name] - expected[name]) ** 2).sum(dtype=np.float64)) for name in found)
    return (difference / sum(float((expected[name] ** 2).sum(dtype=np.float64)) for name in found)) ** 0.5


def split_head(gradients: Mapping, layer_of: Mapping) -> tuple[dict, dict]:
    """(LoRA tensors, head tensors)."""
    lora = {name: value for name, value in gradients.items() if layer_of[name] != "head"}
    return lora, {name: value for name, value in gradients.items() if name not in lora}


@pytest.mark.parametrize("all_linear", [False, True], ids=["query-value", "all-linear"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet", "deberta"])
class TestEveryArchitecture:
    @pytest.mark.parametrize("rows", [BATCH_SIZE, 1, 5])
    @pytest.mark.parametrize("depth", [0, 1, LAYERS])
    def test_unquantized_members_have_the_gradients_of_pytorch(self, make_tiny, name, all_linear, depth, rows):
        tiny = make_tiny(name, all_linear)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected = tiny.eager(parameters, batch)
        found = tiny.step(parameters, batch, depth=depth)
        lora, head = split_head(found.gradients, tiny.layer_of())
        assert relative_l2(head, expected.gradients) <= 1e-5
        if depth:
            assert relative_l2(lora, expected.gradients) <= 1e-5
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)

    @pytest.mark.parametrize("depth", [0, 1, LAYERS])
    def test_a_member_returns_the_gradients_of_its_own_layers_and_no_others(self, make_tiny, name, all_linear, depth):
        tiny = make_tiny(name, all_linear)
        expected = tiny.eager(tiny.parameters(), tiny.batch(2)).gradients
        trained = {key for key, layer in tiny.layer_of().items() if layer == "head" or layer >= LAYERS - depth}
        assert set(tiny.step(tiny.parameters(), tiny.batch(2), depth=depth).gradients) == trained
        if depth == LAYERS:
            assert trained == set(expected)

    @pytest.mark.parametrize(("bits", "largest_error"), [(8, 0.01), (4, 0.16)])
    def test_quantized_members_stay_close_on_every_batch(self, make_tiny, name, all_linear, bits, largest_error):
        tiny = make_tiny(name, all_linear)
        for seed in range(6):
            parameters, batch = tiny.parameters(), tiny.batch(BATCH_SIZE, seed=seed)
            step = tiny.step(parameters, batch, depth=LAYERS, quantized_layers=LAYERS, bits=bits)
            lora, head = split_head(step.gradients, tiny.layer_of())
            eager = tiny.eager(parameters, batch)
            assert relative_l2(head, eager.gradients) <= 1e-5, "the head lies above every quantized layer"
            assert step.loss == pytest.approx(eager.loss, rel=1e-5)
            error = relative_l2(lora, eager.gradients)
            assert 1e-5 < error <= largest_error, "below the lower bound nothing was quantized"

    @pytest.mark.parametrize("rows", [BATCH_SIZE, 1, 5])
    def test_the_evaluation_graph_has_the_logits_of_pytorch(self, make_tiny, name, all_linear, rows):
        tiny = make_tiny(name, all_linear)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected, found = tiny.eager(parameters, batch), tiny.evaluate(parameters, batch)
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)


def test_the_parameter_table_holds_the_shapes_of_the_adapter(tiny):
    expected = tiny.eager(tiny.parameters(), tiny.batch(2)).gradients
    assert {row.name: row.shape for row in tiny.model.parameters} == {k: v.shape for k, v in expected.items()}
    layers = [LAYERS if row.layer == "head" else row.layer for row in tiny.model.parameters]
    assert layers == sorted(layers)
    assert {row.rank for row in tiny.model.parameters if row.layer != "head"} == {4}


@pytest.mark.parametrize("depth", [0, 1])
def test_adapters_below_the_trained_layers_still_shape_the_forward(tiny, depth):
    parameters, batch = tiny.parameters(), tiny.batch(4)
    changed = {name: value * 2 if tiny.layer_of()[name] == 0 else value for name, value in parameters.items()}
    expected, before = tiny.eager(changed, batch), tiny.step(parameters, batch, depth=depth)
    found = tiny.step(changed, batch, depth=depth)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.loss != pytest.approx(before.loss, rel=1e-5)
    assert relative_l2(found.gradients, expected.gradients) <= 1e-5


def test_padding_rows_change_nothing(tiny):
    parameters, batch = tiny.parameters(), tiny.batch(5, ignored=2)
    shorter = {name: value[:3] for name, value in batch.items()}
    padded, plain = tiny.step(parameters, batch, depth=2), tiny.step(parameters, shorter, depth=2)
    assert (padded.examples, padded.correct) == (3, plain.correct)
    assert padded.loss == pytest.approx(plain.loss, rel=1e-5)
    assert relative_l2(padded.gradients, plain.gradients) <= 1e-5


def test_a_batch_of_padding_rows_alone_has_zero_loss_and_gradients(tiny):
    found = tiny.step(tiny.parameters(), tiny.batch(4, ignored=4), depth=LAYERS, quantized_layers=LAYERS)
    assert (found.loss, found.examples, found.correct) == (0.0, 0, 0)
    assert all(not value.any() for value in found.gradients.values())
