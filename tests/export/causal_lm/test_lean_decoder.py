"""The passes that a decoder needs keep the function and remove what they are there to remove."""

import pytest
import torch
from tests.export.causal_lm.conftest import random_language_model

from quadloom_export.graph import JointGraph, shape_of
from quadloom_export.liveness import plan_memory
from quadloom_export.model import add_lora
from quadloom_export.passes.gate import save_gate_slope
from quadloom_export.passes.matmuls import fuse_matmuls
from quadloom_export.passes.quantize import SMALLEST_QUANTIZED
from quadloom_export.passes.recompute import recompute_products
from quadloom_export.passes.shared_heads import share_heads
from quadloom_export.passes.simplify import simplify
from quadloom_export.passes.stash import save_bases_only, saved_tensors, stash_bytes
from quadloom_export.trace import trace_training

LAYERS = 3
BATCH_SIZE = 8
aten = torch.ops.aten
quadloom = torch.ops.quadloom


def targets(joint: JointGraph) -> set:
    return {node.target for node in joint.nodes}


def assert_equal_functions(tiny, found: JointGraph, expected: JointGraph) -> None:
    for rows in (1, 5):
        parameters, batch = tiny.parameters(), tiny.batch(rows)
        left, right = found.run(parameters, batch), expected.run(parameters, batch)
        assert set(left) == set(right)
        for name, value in right.items():
            torch.testing.assert_close(left[name], value, atol=2e-5 * float(value.abs().max()) + 1e-9, rtol=0)


def test_simplifying_keeps_the_function_and_leaves_no_rotary_arithmetic_or_scattered_slices(tiny):
    simple = simplify(tiny.recorded)
    assert_equal_functions(tiny, simple, tiny.recorded)
    assert aten.slice_scatter.default in targets(tiny.recorded)
    assert not targets(simple) & {aten.slice_scatter.default, aten.cos.default, aten.sin.default, aten.arange.default}
    assert not [node for node in simple.nodes if node.target == aten.pow.Tensor_Scalar and node.args[1] in (1, 2)]


def test_heads_that_share_a_key_read_it_unrepeated(tiny):
    fused = fuse_matmuls(simplify(tiny.recorded))
    shared = share_heads(fused)
    assert_equal_functions(tiny, shared, fused)
    assert (aten.expand.default in targets(fused)) == (tiny.name != "gpt-neox"), "which has as many keys as queries"
    assert aten.expand.default not in targets(shared)
    config = tiny.reference.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    scores = [node for node in shared.nodes if node.target == quadloom.batched_matmul.default]
    assert {shape_of(node)[0] for node in scores} == {BATCH_SIZE * heads}


@pytest.mark.parametrize("name", ["llama", "llama-all-linear", "qwen2"])
def test_a_gated_feed_forward_saves_two_tensors_of_its_width_and_keeps_the_function(make_language_model, name):
    tiny = make_language_model(name)
    before = tiny.training
    after = save_gate_slope(before)
    assert_equal_functions(tiny, after, before)
    assert quadloom.silu_derivative.default not in targets(after)
    kept = {True: 2, False: 3}[name != "llama-all-linear"]  # LoRA on the down projection reads its input too
    wide = [saved for saved in saved_tensors(save_bases_only(after)) if shape_of(saved.node)[-1] == 64]
    assert len(wide) == kept * LAYERS
    assert stash_bytes(save_bases_only(after)) < stash_bytes(save_bases_only(before))


def test_the_result_of_a_norm_is_made_again_from_what_its_backward_needs(llama):
    before = save_bases_only(save_gate_slope(llama.training))
    after = recompute_products(before)
    assert_equal_functions(llama, after, before)
    gone = {saved.node.name for saved in saved_tensors(before)} - {saved.node.name for saved in saved_tensors(after)}
    assert len(gone) == LAYERS - 1, "one norm of each layer feeds adapters; the lowest has no backward itself"
    width = BATCH_SIZE * 16 * 32 * 4
    assert stash_bytes(before) - stash_bytes(after) == (LAYERS - 1) * width
    assert plan_memory(after).peak_bytes <= plan_memory(before).peak_bytes


def test_what_is_quantized_is_not_recomputed_from_what_is_quantized(llama):
    """Saved in 8 bits itself it is more precise than a product of tensors in 8 bits."""
    waiting = {
        count: [saved for saved in saved_tensors(llama.member(LAYERS, count)) if saved.layer == 1] for count in (0, 2)
    }
    stored = [saved for saved in waiting[2] if saved.node.target == quadloom.quantize.default]
    large = [saved for saved in waiting[0] if saved.node.meta["val"].numel() >= SMALLEST_QUANTIZED]
    assert len(stored) == len(large) + 1


def test_every_row_of_the_last_layer_counts(llama):
    """Unlike a classifier's, whose head reads one token: the last layer computes as much as the first."""
    rows = [
        sum(
            shape_of(node)[0] == BATCH_SIZE * 16
            for node in llama.training.nodes
            if node.target == quadloom.gemm.default and node.meta["layer"] == layer and node.meta["phase"] == "forward"
        )
        for layer in range(LAYERS)
    ]
    assert len(set(rows)) == 1
    assert rows[0] == 7 + 2 * 2, "seven projections and two adapters"


def test_an_ungated_silu_saves_its_derivative_alone(llama):
    model = random_language_model("llama")
    for layer in model.model.layers:
        layer.mlp.forward = lambda x, mlp=layer.mlp: mlp.down_proj(mlp.act_fn(mlp.up_proj(x)))
    lora = add_lora(model, rank=4, alpha=8.0, task="causal-lm")
    before = fuse_matmuls(simplify(trace_training(lora, batch_size=BATCH_SIZE, sequence_length=16)))
    after = save_gate_slope(before)
    assert_equal_functions(llama, after, before)
    wide = [saved for saved in saved_tensors(save_bases_only(after)) if shape_of(saved.node)[-1] == 64]
    assert len(wide) == LAYERS
