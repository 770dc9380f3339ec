"""What every engine must do, against PyTorch eager with an adapter that PEFT alone put on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.export.engines.formats import (
    FORMATS,
    arrays,
    as_batch,
    engine_of,
    evaluation_of,
    opening_of,
    relative_l2,
)

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.optimizers import AdamW

LAYERS = 3
BATCH_SIZE = 8
DEPTHS = {"bert": LAYERS, "roberta": 1, "distilbert": 1, "mpnet": 1, "deberta": 1}
"""Lowering takes seconds per layer: one architecture shows the whole depth."""
STEPS, LEARNING_RATE = 50, 3e-2


def lora_of(tiny, gradients):
    return {name: value for name, value in gradients.items() if tiny.layer_of()[name] != "head"}


@pytest.mark.parametrize(("name", "depth"), DEPTHS.items())
@pytest.mark.parametrize("rows", [BATCH_SIZE, 3])
class TestEveryArchitecture:
    def test_an_unquantized_member_has_the_gradients_of_pytorch(self, format_, make_tiny, name, depth, rows):
        tiny = make_tiny(name)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected = tiny.eager(parameters, batch)
        found = engine_of(format_, tiny, depth, 0).step(arrays(parameters), as_batch(batch))
        layer_of = tiny.layer_of()
        trained = {key for key, layer in layer_of.items() if layer == "head" or layer >= LAYERS - depth}
        assert set(found.gradients) == trained
        assert relative_l2(lora_of(tiny, found.gradients), expected.gradients) <= 1e-5
        assert relative_l2(found.gradients, expected.gradients) <= 1e-5
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.correct, found.examples) == (expected.correct, expected.examples)

    def test_a_quantized_member_stays_close(self, format_, make_tiny, name, depth, rows):
        tiny = make_tiny(name)
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        expected = tiny.eager(parameters, batch)
        found = engine_of(format_, tiny, depth, depth).step(arrays(parameters), as_batch(batch))
        error = relative_l2(lora_of(tiny, found.gradients), expected.gradients)
        assert 1e-5 < error <= 0.02, "below the lower bound nothing was quantized"
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("rows", [BATCH_SIZE, 3])
def test_evaluation_has_the_logits_of_pytorch_for_the_rows_that_were_given(format_, bert, rows):
    parameters, batch = bert.parameters(), bert.batch(rows)
    expected = bert.eager(parameters, batch)
    found = evaluation_of(format_, bert).evaluate(arrays(parameters), as_batch(batch))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.correct, found.examples) == (expected.correct, expected.examples)


def test_the_results_of_evaluation_are_not_overwritten_by_the_next(format_, bert):
    engine, parameters = evaluation_of(format_, bert), arrays(bert.parameters())
    first = engine.evaluate(parameters, as_batch(bert.batch(BATCH_SIZE, seed=1)))
    kept = first.logits.copy()
    second = engine.evaluate(parameters, as_batch(bert.batch(BATCH_SIZE, seed=2)))
    np.testing.assert_array_equal(first.logits, kept)
    assert not np.array_equal(second.logits, kept)


def test_a_step_leaves_nothing_behind_for_the_next(format_, bert):
    engine, parameters = engine_of(format_, bert, LAYERS, LAYERS), arrays(bert.parameters())
    first = engine.step(parameters, as_batch(bert.batch(BATCH_SIZE, seed=1)))
    kept = {name: value.copy() for name, value in first.gradients.items()}
    engine.step(parameters, as_batch(bert.batch(2, seed=2)))
    again = engine.step(parameters, as_batch(bert.batch(BATCH_SIZE, seed=1)))
    for name, value in kept.items():
        np.testing.assert_array_equal(first.gradients[name], value, "the engine's own memory was handed out")
        np.testing.assert_array_equal(again.gradients[name], value)


def test_a_step_changes_neither_parameters_nor_batch(format_, bert):
    parameters, batch = arrays(bert.parameters()), as_batch(bert.batch(BATCH_SIZE))
    before = {name: value.copy() for name, value in parameters.items()}, batch.input_ids.copy()
    engine_of(format_, bert, LAYERS, 0).step(parameters, batch)
    np.testing.assert_array_equal(batch.input_ids, before[1])
    for name, value in before[0].items():
        np.testing.assert_array_equal(parameters[name], value)


def test_two_engines_in_one_process_do_not_disturb_each_other(format_, bert):
    one, other = engine_of(format_, bert, LAYERS, 0), opening_of(format_, bert, LAYERS, 0).open()
    quantized = engine_of(format_, bert, LAYERS, LAYERS)
    parameters, batch = arrays(bert.parameters()), as_batch(bert.batch(BATCH_SIZE))
    moved = {name: 2 * value for name, value in parameters.items()}
    first, elsewhere = one.step(parameters, batch), other.step(moved, batch)
    quantized.step(moved, batch)
    again = one.step(parameters, batch)
    assert elsewhere.loss != first.loss
    for name, value in first.gradients.items():
        np.testing.assert_array_equal(again.gradients[name], value)


def test_padding_rows_change_nothing(format_, bert):
    parameters, batch = arrays(bert.parameters()), bert.batch(5, ignored=2)
    shorter = {name: value[:3] for name, value in batch.items()}
    engine = engine_of(format_, bert, LAYERS, 0)
    padded, plain = engine.step(parameters, as_batch(batch)), engine.step(parameters, as_batch(shorter))
    assert (padded.examples, padded.correct) == (3, plain.correct)
    assert padded.loss == pytest.approx(plain.loss, rel=1e-5)
    assert relative_l2(padded.gradients, plain.gradients) <= 1e-5


def test_a_batch_of_padding_rows_alone_has_zero_loss_and_gradients(format_, bert):
    batch = as_batch(bert.batch(2))
    batch = replace(batch, labels=np.full_like(batch.labels, -100))
    found = engine_of(format_, bert, LAYERS, LAYERS).step(arrays(bert.parameters()), batch)
    assert (found.loss, found.examples, found.correct) == (0.0, 0, 0)
    assert all(not value.any() for value in found.gradients.values())


def test_a_batch_that_is_too_long_for_a_static_program_is_refused_by_name(format_, bert):
    if not format_.static_batch:
        pytest.skip("takes batches of any size")
    with pytest.raises(QuadloomError, match="9 rows does not fit a program made for 8"):
        engine_of(format_, bert, LAYERS, 0).step(arrays(bert.parameters()), as_batch(bert.batch(9)))


def cut(content: bytes) -> dict[str, bytes]:
    return {"cut": content[:1000], "empty": b"", "html": b"<html><body>404</body></html>" * 40}


@pytest.mark.parametrize("kind", ["cut", "empty", "html", "absent"])
def test_a_file_that_is_broken_or_absent_is_named_when_the_engine_is_opened(format_, bert, kind):
    opening = opening_of(format_, bert, LAYERS, 0)
    for path in format_.files(opening):
        whole = path.read_bytes()
        try:
            path.unlink() if kind == "absent" else path.write_bytes(cut(whole)[kind])
            with pytest.raises(QuadloomError) as raised:
                opening.open()
            assert path.name in str(raised.value) or path.parent.name in str(raised.value)
        finally:
            path.write_bytes(whole)
    assert opening.open().step(arrays(bert.parameters()), as_batch(bert.batch(2))).examples == 1


def losses_of(engine, tiny) -> list[float]:
    """AdamW over batches that are the same for every engine; short batches among them."""
    parameters, optimizer = arrays(tiny.parameters()), AdamW(weight_decay=0.01)
    found = []
    for step in range(STEPS):
        result = engine.step(parameters, as_batch(tiny.batch(BATCH_SIZE - step % 3, seed=step % 2)))
        optimizer.update(parameters, result.gradients, dict.fromkeys(parameters, LEARNING_RATE))
        found.append(result.loss)
    return found


def eager_losses(tiny) -> list[float]:
    """The same training by `torch.optim.AdamW`."""
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in tiny.parameters().items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, weight_decay=0.01)
    found = []
    for step in range(STEPS):
        batch = tiny.batch(BATCH_SIZE - step % 3, seed=step % 2)
        result = tiny.eager({name: value.detach() for name, value in parameters.items()}, batch)
        for name, value in parameters.items():
            value.grad = torch.from_numpy(result.gradients[name].copy())
        optimizer.step()
        found.append(result.loss)
    return found


def test_fifty_steps_of_every_engine_have_the_losses_of_pytorch(format_, bert):
    expected = eager_losses(bert)
    assert expected[-1] < 0.5 * expected[0], "the model must learn, or the losses say nothing"
    np.testing.assert_allclose(losses_of(engine_of(format_, bert, LAYERS, 0), bert), expected, atol=1e-4)


def test_the_same_data_gives_the_same_losses_in_onnx_runtime_and_executorch(bert):
    for name in ("onnx", "executorch"):
        FORMATS[name].require()
    one, other = (losses_of(engine_of(FORMATS[name], bert, LAYERS, 0), bert) for name in ("onnx", "executorch"))
    np.testing.assert_allclose(one, other, atol=1e-4)
