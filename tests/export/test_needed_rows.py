"""Rows that nobody needs are not computed, and everything else is as before."""

from functools import cache

import pytest
import torch
from tests.export.conftest import BATCH_SIZE, LAYERS, SEQUENCE_LENGTH, random_classifier

from quadloom_export.graph import shape_of
from quadloom_export.model import add_lora
from quadloom_export.operations import multiply_adds
from quadloom_export.passes.matmuls import fuse_matmuls
from quadloom_export.passes.needed_rows import compute_needed_rows
from quadloom_export.passes.simplify import simplify
from quadloom_export.trace import trace_training

HEADS = {
    "first": lambda hidden: hidden[:, 0],
    "last": lambda hidden: hidden[:, -1],
    "third, by a slice": lambda hidden: hidden[:, 2:3].squeeze(1),
    "first and last": lambda hidden: hidden[:, 0] + hidden[:, -1],
    "mean": lambda hidden: hidden.mean(dim=1),
}


@cache
def recorded_with_head(head):
    """A BERT whose pooler takes what `HEADS[head]` gives it."""
    model = random_classifier("bert", layers=2)
    pooler = model.bert.pooler
    pooler.forward = lambda hidden: pooler.activation(pooler.dense(HEADS[head](hidden)))
    return simplify(trace_training(add_lora(model, rank=4, alpha=8.0), batch_size=4, sequence_length=16))


def inputs_of(joint, rows):
    torch.manual_seed(rows)
    parameters = {key: torch.randn(shape_of(node)) * 0.1 for key, node in joint.inputs_of("parameter").items()}
    ids = torch.randint(1, 50, (rows, 16))
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    batch["labels"] = torch.arange(rows) % 2
    return parameters, {key: batch[key] for key in joint.inputs_of("batch")}


def assert_equal_functions(found, expected):
    for rows in (1, 3, 6):
        parameters, batch = inputs_of(expected, rows)
        left, right = found.run(parameters, batch), expected.run(parameters, batch)
        assert set(left) == set(right)
        for name, value in right.items():
            torch.testing.assert_close(left[name], value, atol=1e-5 * float(value.abs().max()), rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_the_function_is_the_same_whatever_the_head_reads(head):
    joint = recorded_with_head(head)
    assert_equal_functions(compute_needed_rows(joint), joint)


@pytest.mark.parametrize("head", ["first", "last"])
def test_one_token_costs_the_last_layer_its_keys_and_values_only(head):
    """In units of hidden^2 per token: a layer is 4 (projections) + 2 * ratio (feed-forward), keys and values are 2."""
    joint = recorded_with_head(head)
    config = random_classifier("bert").config
    hidden, tokens = config.hidden_size, 4 * 16
    saved = fuse_matmuls(joint), fuse_matmuls(compute_needed_rows(joint))
    forward = [multiply_adds(each, phase="forward") for each in saved]
    ratio = config.intermediate_size / hidden
    rows_saved = tokens * 15 / 16
    linear = (2 + 2 * ratio) * hidden * hidden * rows_saved
    attention = 2 * 16 * hidden * rows_saved
    adapters = 2 * 4 * hidden * rows_saved  # the query's; the value's adapter still runs over all tokens
    assert forward[0] - forward[1] == pytest.approx(linear + attention + adapters)


@pytest.mark.parametrize("head", ["mean", "first and last"])
def test_a_head_that_reads_more_than_one_token_costs_what_it_did(head):
    joint = recorded_with_head(head)
    costs = [
        multiply_adds(fuse_matmuls(each), phase=phase)
        for each in (joint, compute_needed_rows(joint))
        for phase in ("forward", "backward")
    ]
    assert costs[:2] == costs[2:]


def test_every_architecture_keeps_its_function_and_computes_less(tiny):
    simple = simplify(tiny.recorded)
    lean = compute_needed_rows(simple)
    parameters = tiny.parameters()
    for rows in (1, 5):
        batch = tiny.batch(rows)
        found, expected = lean.run(parameters, batch), simple.run(parameters, batch)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-5 * float(value.abs().max()) + 1e-9, rtol=0)
    for phase in ("forward", "backward"):
        before, after = (multiply_adds(fuse_matmuls(each), phase=phase) for each in (simple, lean))
        assert after < before * (1 - 0.5 / LAYERS)


def test_the_last_layer_stashes_one_row_of_its_feed_forward(bert):
    """No tensor of all tokens as wide as the feed-forward is made in the last layer."""
    wide = {
        node.meta["layer"]
        for node in bert.training.nodes
        if isinstance(node.meta["val"], torch.Tensor)
        and node.meta["val"].numel() == BATCH_SIZE * SEQUENCE_LENGTH * bert.reference.config.intermediate_size
    }
    assert wide == set(range(LAYERS - 1))
