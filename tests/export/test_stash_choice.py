"""The bits of each stashed tensor, chosen on tiny models with outliers in their weights."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.export.conftest import (
    BATCH_SIZE,
    LAYERS,
    SEQUENCE_LENGTH,
    arrays,
    as_batch,
    input_specs,
    output_specs,
    random_classifier,
)

from quadloom_export.calibration import Calibration, eager_gradients, gradient_error
from quadloom_export.lowering.onnx import lower_to_onnx, weight_tensors
from quadloom_export.lowering.weights import write_weights
from quadloom_export.model import add_lora
from quadloom_export.passes.quantize import StashFormat, StashFormats, fits, quantizable, round_trip
from quadloom_export.passes.row_chunks import split_rows
from quadloom_export.passes.stash import Place, stash_bytes
from quadloom_export.pipeline import at_depth, at_quantization, training_graph
from quadloom_export.replay import Replay
from quadloom_export.stash_choice import Option, choose_options, descent
from quadloom_runtime.contract.manifest import GRADIENT_PREFIX
from quadloom_runtime.engines.onnx import OnnxTrainingEngine
from quadloom_runtime.errors import QuadloomError

GROUP = 16
BUDGETS = (0.003, 0.01, 0.02, 0.3)


@cache
def planted(row_chunks=1):
    """A tiny BERT whose norms blow up two channels, as pretrained ones do: its graph and a calibration batch."""
    classifier = random_classifier("bert")
    with torch.no_grad():
        for name, weight in classifier.named_parameters():
            if name.endswith("LayerNorm.weight"):
                weight[3], weight[20] = 12.0, -8.0
    model = add_lora(classifier, rank=4, alpha=8.0, target_modules=("query", "value"))
    generator = torch.Generator().manual_seed(3)
    parameters = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in model.trainable.items()
    }
    batch = as_batch(
        {
            "input_ids": torch.randint(5, 30, (BATCH_SIZE, SEQUENCE_LENGTH), generator=generator),
            "attention_mask": torch.ones(BATCH_SIZE, SEQUENCE_LENGTH, dtype=torch.int64),
            "labels": torch.arange(BATCH_SIZE) % 2,
        }
    )
    calibration = Calibration(batch, arrays(parameters), eager_gradients(model, parameters, batch))
    full = training_graph(model, batch_size=BATCH_SIZE, sequence_length=SEQUENCE_LENGTH)
    return split_rows(at_depth(full, LAYERS), chunks=row_chunks), calibration


@cache
def chosen(budget):
    graph, calibration = planted()
    return choose_options(graph, calibration, quantized_layers=LAYERS, budget=budget, group_size=GROUP)


def member(choice):
    formats = {place: option.stash_format for place, option in choice.items()}
    return at_quantization(planted()[0], LAYERS, StashFormats(StashFormat(8, GROUP), formats))


def gradients(graph, calibration):
    """What the member's graph itself computes."""
    batch = {key: torch.from_numpy(getattr(calibration.batch, key)) for key in graph.inputs_of("batch")}
    found = graph.run({name: torch.from_numpy(value) for name, value in calibration.parameters.items()}, batch)
    return {
        name.removeprefix(GRADIENT_PREFIX): value.numpy()
        for name, value in found.items()
        if name.startswith(GRADIENT_PREFIX)
    }


def error(graph, calibration):
    return gradient_error(calibration.gradients, gradients(graph, calibration), graph.parameters).relative_l2


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_member_keeps_the_budget(budget):
    assert 0 < error(member(chosen(budget)), planted()[1]) <= budget


def test_more_budget_never_gives_more_bytes_and_sometimes_fewer():
    sizes = [stash_bytes(member(chosen(budget))) for budget in BUDGETS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_within_its_error_it_is_smaller_than_one_number_of_bits_for_all():
    graph, calibration = planted()
    uniform = at_quantization(graph, LAYERS, StashFormats(StashFormat(4, GROUP)))
    budget = error(uniform, calibration)
    choice = choose_options(graph, calibration, quantized_layers=LAYERS, budget=budget, group_size=GROUP)
    assert stash_bytes(member(choice)) <= stash_bytes(uniform)


def test_a_budget_that_int8_just_keeps_leaves_int8_wherever_int4_would_do_harm():
    graph, calibration = planted()
    fine = StashFormat(8, GROUP // 2)
    # Groups of residual sums are half as large anyway, and cannot be so small.
    residual = {saved.place for saved in quantizable(graph, LAYERS) if not fits(saved.node, fine)}
    formats = StashFormats(fine, dict.fromkeys(residual, StashFormat(8, GROUP)))
    tight = 1.001 * error(at_quantization(graph, LAYERS, formats), calibration)
    choice = choose_options(graph, calibration, quantized_layers=LAYERS, budget=tight, group_size=GROUP)
    narrow = [option for option in choice.values() if option.stash_format.bits == 4]
    assert sum(option.error for option in narrow) <= (0.1 * tight) ** 2
    assert len(narrow) <= len(choice) / 4


def test_a_budget_that_int8_cannot_keep_is_refused():
    graph, calibration = planted()
    with pytest.raises(QuadloomError, match="INT8 everywhere has a gradient error"):
        choose_options(graph, calibration, quantized_layers=LAYERS, budget=1e-5, group_size=GROUP)


@pytest.mark.parametrize("rows", [None, 3])
def test_a_replay_with_rounded_stash_has_the_gradients_of_the_quantized_graph(rows):
    graph, whole = planted()
    batch = as_batch({key: torch.from_numpy(value[:rows]) for key, value in vars(whole.batch).items()})
    calibration = Calibration(batch, whole.parameters, {})
    stash_format = StashFormat(4, GROUP)
    expected = gradients(at_quantization(graph, LAYERS, StashFormats(stash_format)), calibration)
    replay = Replay(graph, whole, rows=rows)
    changes = {
        saved.node: round_trip(saved.node, replay.saved[saved.node], stash_format)
        for saved in quantizable(graph, LAYERS)
    }
    for _ in range(2):  # a trial leaves nothing behind
        for name, value in replay.gradients_with(changes).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)
    for name, value in replay.gradients_with({}).items():
        np.testing.assert_array_equal(value, replay.gradients[name])


def test_a_mixed_member_has_the_gradients_of_its_graph_in_onnx_runtime(tmp_path):
    graph, calibration = member(chosen(0.01)), planted()[1]
    assert {option.stash_format.bits for option in chosen(0.01).values()} == {4, 8}
    path = tmp_path / "mixed.onnx"
    weights = write_weights(tmp_path / "weights.bin", weight_tensors(graph))
    path.write_bytes(lower_to_onnx(graph, weights).content)
    engine = OnnxTrainingEngine(path, inputs=input_specs(graph), outputs=output_specs(graph), label="mixed")
    found = engine.step(calibration.parameters, calibration.batch).gradients
    expected = gradients(graph, calibration)
    # A value on the edge between two numbers of the stash may fall on either side.
    assert gradient_error(expected, found, graph.parameters).relative_l2 <= 1e-3


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
def test_a_mixed_member_has_the_gradients_of_its_graph_in_executorch(backend, tmp_path):
    pytest.importorskip("executorch")
    from quadloom_export.lowering import executorch
    from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine

    graph, calibration = member(chosen(0.01)), planted()[1]
    program, weights = tmp_path / "mixed.pte", tmp_path / "weights.ptd"
    executorch.save(executorch.lower_to_executorch(graph, backend=backend).program, program)
    executorch.save(executorch.weights_file(graph), weights)
    specs = {"inputs": executorch.input_specs(graph), "outputs": executorch.output_specs(graph)}
    engine = ExecutorchTrainingEngine(program, weights, **specs, label=backend)
    found = engine.step(calibration.parameters, calibration.batch).gradients
    expected = gradients(graph, calibration)
    assert gradient_error(expected, found, graph.parameters).relative_l2 <= 1e-3


@pytest.mark.parametrize("group_size", [8, 16, 64, 128])
@pytest.mark.parametrize("bits", [8, 4])
def test_groups_within_rows_are_the_same_in_every_share_of_the_rows(bits, group_size):
    """No group is cut at the border of a share: the wide tensors give the same numbers in four shares as in one."""
    formats = StashFormats(StashFormat(bits, group_size))
    whole, shares = (at_quantization(planted(chunks)[0], LAYERS, formats) for chunks in (1, 4))
    calibration = planted()[1]
    if group_size <= 64:  # the width of the feed-forward
        expected = gradients(whole, calibration)
        assert gradient_error(expected, gradients(shares, calibration), whole.parameters).relative_l2 <= 2e-3
    assert error(shares, calibration) <= (0.03 if bits == 8 else 0.6)


options = st.lists(
    st.builds(Option, st.just(StashFormat()), st.integers(1, 1000), st.floats(0, 1e3)), min_size=1, max_size=8
)


@given(options)
def test_each_step_of_a_descent_saves_bytes_at_a_price_that_rises(found):
    start = min(found, key=lambda option: (option.error, option.size_bytes))
    steps = descent(Place("kind", 0), start, found)
    sizes = [start.size_bytes, *(step.to.size_bytes for step in steps)]
    assert all(a > b for a, b in pairwise(sizes))
    assert all(a.cost <= b.cost * (1 + 1e-6) + 1e-9 for a, b in pairwise(steps))
    assert sizes[-1] == min(option.size_bytes for option in found)
