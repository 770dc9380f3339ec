"""The head of a language model goes forward and back in chunks: exactly what autograd finds without any."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.export.causal_lm.conftest import BATCH_SIZE, SEQUENCE_LENGTH, SIZES
from tests.export.causal_lm.test_language_model_members import relative_l2

from quadloom_export import language_model
from quadloom_export.graph import shape_of
from quadloom_export.liveness import plan_memory
from quadloom_export.losses import VocabularyHead, judge_next_tokens
from quadloom_export.pipeline import at_depth, made_lean
from quadloom_export.trace import trace_evaluation, trace_training

HIDDEN, VOCABULARY = 6, 11


@settings(deadline=None)
@given(
    rows=st.integers(1, 4),
    length=st.integers(2, 9),
    at_once=st.integers(1, 12),
    seed=st.integers(0, 1000),
    counted=st.floats(0, 1),
    scale=st.sampled_from([1.0, 30.0]),
    with_bias=st.booleans(),
)
def test_chunks_have_the_loss_counts_and_gradient_of_cross_entropy(
    rows, length, at_once, seed, counted, scale, with_bias
):
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(rows, length, HIDDEN, generator=generator)).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    bias = torch.randn(VOCABULARY, generator=generator) if with_bias else None
    labels = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    labels[torch.rand(rows, length, generator=generator) > counted] = -100
    found, gradient = judge_next_tokens(
        hidden, VocabularyHead(weight, bias), labels, positions_at_once=at_once, with_gradient=True
    )
    logits = torch.nn.functional.linear(hidden, weight, bias)[:, :-1].flatten(0, 1)
    following = labels[:, 1:].flatten()
    total = torch.nn.functional.cross_entropy(logits, following, ignore_index=-100, reduction="sum")
    examples = int((following != -100).sum())
    loss = total / max(1, examples)
    loss.backward()
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-4, atol=1e-6)
    assert int(found.count) == examples
    assert int(found.correct) == int((logits.argmax(1) == following).sum())


@pytest.fixture
def in_chunks_of_two(llama, monkeypatch):
    """The tiny model traced with room for the logits of two positions: (training, evaluation)."""
    row_bytes = BATCH_SIZE * SIZES["vocab_size"] * 4
    monkeypatch.setattr(language_model, "LARGEST_LOGITS_BYTES", 2 * row_bytes + 1)
    shape = {"batch_size": BATCH_SIZE, "sequence_length": SEQUENCE_LENGTH}
    return made_lean(trace_training(llama.model, **shape)), made_lean(trace_evaluation(llama.model, **shape))


def test_a_graph_in_chunks_equals_one_without(llama, in_chunks_of_two):
    training, evaluation = in_chunks_of_two
    for rows in (BATCH_SIZE, 3):
        parameters, batch = llama.parameters(), llama.batch(rows)
        found, expected = training.run(parameters, batch), llama.training.run(parameters, batch)
        gradients = [{k: v.numpy() for k, v in each.items() if k.startswith("gradient.")} for each in (found, expected)]
        assert relative_l2(*gradients) <= 1e-6
        for results in (found, evaluation.run(parameters, batch)):
            assert float(results["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
            for name in ("correct_count", "example_count"):
                assert int(results[name]) == int(expected[name])


def test_no_more_than_two_chunks_of_logits_are_alive_at_once(in_chunks_of_two):
    chunk = 2 * BATCH_SIZE * SIZES["vocab_size"]
    for graph in (at_depth(in_chunks_of_two[0], 1), in_chunks_of_two[1]):
        wide = [node for node in graph.nodes if shape_of(node)[-1:] == (SIZES["vocab_size"],)]
        assert max(node.meta["val"].numel() for node in wide) == chunk
        plan = plan_memory(graph)
        assert sum(size for node, size in plan.live if node in wide) <= 2 * chunk * 4


def test_a_larger_batch_or_vocabulary_means_fewer_positions_at_once_but_one_at_least():
    assert language_model.positions_at_once(batch_size=4, vocabulary=49_152) == 5
    assert language_model.positions_at_once(batch_size=16, vocabulary=49_152) == 1
    assert language_model.positions_at_once(batch_size=64, vocabulary=256_000) == 1
    assert language_model.positions_at_once(batch_size=8, vocabulary=65) > SEQUENCE_LENGTH
