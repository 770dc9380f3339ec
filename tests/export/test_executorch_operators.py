"""Each translation for ExecuTorch against the operator that it stands for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quadloom_export import semantic_ops
from quadloom_export.lowering.executorch_operators import TRANSLATIONS

quadloom = torch.ops.quadloom
SIZES = st.integers(1, 6)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def translated(target, *arguments):
    return TRANSLATIONS[target](*arguments)


@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.sampled_from([1.0, 0.25]), st.sampled_from([None, 1, 2]))
def test_gemm_is_the_same_however_it_transposes(rows, inner, columns, transpose_a, transpose_b, alpha, bias_rank):
    a = random(inner, rows) if transpose_a else random(rows, inner)
    b = random(columns, inner) if transpose_b else random(inner, columns)
    bias = {None: None, 1: random(columns), 2: random(rows, columns)}[bias_rank]
    arguments = (a, b, bias, transpose_a, transpose_b, alpha)
    torch.testing.assert_close(translated(quadloom.gemm.default, *arguments), semantic_ops.gemm(*arguments))


@given(SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.sampled_from([1.0, 0.25]))
def test_batched_matmul_is_the_same_however_it_transposes(batch, rows, inner, columns, transpose_a, transpose_b, alpha):
    a = random(batch, inner, rows) if transpose_a else random(batch, rows, inner)
    b = random(batch, columns, inner) if transpose_b else random(batch, inner, columns)
    arguments = (a, b, transpose_a, transpose_b, alpha)
    found = translated(quadloom.batched_matmul.default, *arguments)
    torch.testing.assert_close(found, semantic_ops.batched_matmul(*arguments))


@pytest.mark.parametrize("target", [quadloom.gelu_derivative.default, quadloom.unit_interval.default])
def test_elementwise_operators_are_the_same(target):
    x = 3 * random(40, 7)
    torch.testing.assert_close(translated(target, x), target(x))


@pytest.mark.parametrize("levels", [127, 7])
def test_quantizing_gives_the_same_bits(levels):
    x = random(33, 16)
    x[3] = 0.0  # a row without a scale
    scale = translated(quadloom.row_scale.default, x, levels, None)
    assert torch.equal(scale, semantic_ops.row_scale(x, levels, None))
    stored = translated(quadloom.quantize.default, x, scale)
    assert torch.equal(stored, semantic_ops.quantize(x, scale))
    assert torch.equal(translated(quadloom.dequantize.default, stored, scale), semantic_ops.dequantize(stored, scale))


def test_ties_round_to_even_and_too_large_values_saturate():
    x, one = torch.tensor([[0.5, 1.5, -0.5, -2.5, 126.5, 127.5, 400.0, -400.0]]), torch.ones(1)
    expected = torch.tensor([[0, 2, 0, -2, 126, 127, 127, -128]], dtype=torch.int8)
    assert torch.equal(translated(quadloom.quantize.default, x, one), expected)


@pytest.mark.parametrize("lower_bound", [0.0, -0.25])
def test_a_known_lower_bound_gives_the_same_scale(lower_bound):
    x = random(33, 16).clamp_min(lower_bound)
    x[3] = 0.0
    arguments = (x, 127, lower_bound)
    assert torch.equal(translated(quadloom.row_scale.default, *arguments), semantic_ops.row_scale(*arguments))


def test_every_pair_of_int4_values_is_packed_and_unpacked_alike():
    low, high = torch.meshgrid(torch.arange(-8, 8), torch.arange(-8, 8), indexing="ij")
    x = torch.cat([low.reshape(16, 16), high.reshape(16, 16)], 1).to(torch.int8)
    packed = translated(quadloom.pack_int4.default, x)
    assert torch.equal(packed, semantic_ops.pack_int4(x))
    assert torch.equal(translated(quadloom.unpack_int4.default, packed), semantic_ops.unpack_int4(packed))


def test_constants_of_the_batch_have_the_static_size():
    reference, x = torch.zeros(3, 5), random(1, 2)
    full, tile = quadloom.batch_full.default, quadloom.batch_tile.default
    assert torch.equal(translated(full, reference, [2, 4], 0, 0.5), full(reference, [2, 4], 0, 0.5))
    assert torch.equal(translated(tile, x, reference, [2, 1], 0), tile(x, reference, [2, 1], 0))


@pytest.mark.parametrize("columns", [7, 5000, 49_152])
def test_softmax_is_the_same_over_few_and_many_classes(columns):
    x = 3 * random(3, columns)
    found = translated(torch.ops.aten._softmax.default, x, 1, False)
    torch.testing.assert_close(found.double(), torch.softmax(x.double(), 1), rtol=5e-5, atol=0)
