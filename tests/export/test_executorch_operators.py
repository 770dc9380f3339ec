"""Each translation for ExecuTorch against the operator that it stands for."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quadloom_export import semantic_ops
from quadloom_export.lowering.executorch_kernels import PortableKernels
from quadloom_export.lowering.executorch_operators import translations

aten = torch.ops.aten
quadloom = torch.ops.quadloom
KERNELS = PortableKernels()
SIZES = st.integers(1, 6)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def translated(target, *arguments):
    return translations(KERNELS)[target](*arguments)


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


ELEMENTWISE = [
    quadloom.gelu_derivative.default,
    quadloom.normal_cdf.default,
    quadloom.unit_interval.default,
    aten.gelu.default,
]


@pytest.mark.parametrize("target", ELEMENTWISE)
def test_elementwise_operators_are_the_same(target):
    x = torch.cat([3 * random(40, 7), torch.tensor([[0.0, -0.0, 1e-30, -1e-20, 12.0, -12.0, 1e-6]])])
    torch.testing.assert_close(translated(target, x), target(x), rtol=1e-6, atol=1e-6)


@given(st.data(), st.lists(SIZES, min_size=1, max_size=4))
def test_every_order_of_axes_is_copied_alike(data, shape):
    x = random(*shape)
    order = data.draw(st.sampled_from(list(permutations(range(x.dim())))))
    assert torch.equal(translated(aten.permute.default, x, list(order)), x.permute(order).contiguous())


def test_whole_numbers_are_permuted_too():
    x = torch.arange(24, dtype=torch.int8).view(2, 3, 4)
    for order in permutations(range(3)):
        assert torch.equal(translated(aten.permute.default, x, list(order)), x.permute(order))


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_softmax_is_the_same_for_large_and_masked_scores(axis):
    x = 40 * random(5, 6, 7)
    x[0, 1, 2:] = torch.finfo(torch.float32).min
    torch.testing.assert_close(translated(aten._softmax.default, x, axis, False), x.softmax(axis), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("axes", "keep"), [([2], True), ([-1], False), ([0, 2], True), ([1], False)])
def test_sum_and_mean_are_the_same_over_any_axes(axes, keep):
    x = random(3, 4, 50)
    torch.testing.assert_close(translated(aten.mean.dim, x, axes, keep), x.mean(axes, keep), rtol=1e-6, atol=1e-7)
    found = translated(aten.sum.dim_IntList, x, axes, keep)
    torch.testing.assert_close(found, x.sum(axes, keep), rtol=1e-6, atol=1e-5)


def test_whole_numbers_are_counted_exactly():
    x = torch.full((2, 3), 2**40)
    found = translated(aten.sum.dim_IntList, x, [1], True)
    assert torch.equal(found, x.sum([1], True))


@pytest.mark.parametrize(("axes", "keep"), [([0], False), ([0], True), ([1], False), ([-1], True)])
def test_extremes_are_the_same_over_any_axes(axes, keep):
    x = random(7, 5)
    assert torch.equal(translated(aten.amax.default, x, axes, keep), x.amax(axes, keep))
    assert torch.equal(translated(aten.amin.default, x, axes, keep), x.amin(axes, keep))


@pytest.mark.parametrize("target", [aten.add.Tensor, aten.mul.Tensor])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 1), (2, 3, 4), (1, 4), (1, 1, 1, 4), (4, 2, 1, 1)])
def test_operands_of_different_shape_are_broadcast_alike(target, shape):
    a, b = random(2, 3, 4), random(*shape)
    assert torch.equal(translated(target, a, b), target(a, b))
    assert torch.equal(translated(target, b, a), target(b, a))


def assert_same_but_for_ties(found: torch.Tensor, expected: torch.Tensor, steps: torch.Tensor) -> None:
    """Between two whole numbers either is as near: the zero point is added before rounding here, elsewhere after."""
    difference = (found.int() - expected.int()).abs()
    is_tie = (steps - steps.floor() - 0.5).abs() < 1e-4
    assert not difference[~is_tie].any()
    assert int(difference.max()) <= 1


@pytest.mark.parametrize("levels", [255, 15])
@pytest.mark.parametrize("lower_bound", [None, 0.0, -0.25])
def test_quantizing_gives_the_same_bits(levels, lower_bound):
    x = random(33, 16) if lower_bound is None else random(33, 16).clamp_min(lower_bound)
    x[3] = 0.0  # a row without a range
    minimum = translated(quadloom.row_minimum.default, x) if lower_bound is None else None
    bound = lower_bound or 0.0
    scale = translated(quadloom.row_scale.default, x, minimum, bound, levels)
    assert torch.equal(scale, semantic_ops.row_scale(x, minimum, bound, levels))
    zero = translated(quadloom.zero_point.default, scale, minimum, bound, levels)
    assert torch.equal(zero, semantic_ops.zero_point(scale, minimum, bound, levels))
    stored = translated(quadloom.quantize.default, x, scale, zero)
    assert_same_but_for_ties(stored, semantic_ops.quantize(x, scale, zero), x / scale[:, None])
    restored = translated(quadloom.dequantize.default, stored, scale, zero)
    assert torch.equal(restored, semantic_ops.dequantize(stored, scale, zero))


@pytest.mark.parametrize(("scale", "zero"), [(0.005, -102), (0.05, 3), (1.0, 0)])
def test_quantizing_at_a_fixed_scale_gives_the_same_bits(scale, zero):
    x = random(33, 16).clamp((-128 - zero) * scale, (127 - zero) * scale)
    stored = translated(quadloom.quantize_fixed.default, x, scale, zero)
    assert_same_but_for_ties(stored, semantic_ops.quantize_fixed(x, scale, zero), x / scale)
    restored = translated(quadloom.dequantize_fixed.default, stored, scale, zero)
    torch.testing.assert_close(restored, semantic_ops.dequantize_fixed(stored, scale, zero))


def test_whole_steps_are_exact_and_ties_go_to_either_side():
    x, one = torch.tensor([[0.0, 3.0, -2.0, 1.25, -0.75, 0.5, 1.5, -2.5, 126.5]]), torch.ones(1)
    for zero in (-3, -4):
        found = translated(quadloom.quantize.default, x, one, torch.tensor([zero], dtype=torch.int8)) - zero
        assert found[0, :5].tolist() == [0, 3, -2, 1, -1]
        assert torch.equal((found.int() - x).abs()[0, 5:], torch.full([4], 0.5))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4), st.sampled_from([255, 15]))
def test_no_number_of_a_row_leaves_the_range(row, levels):
    x = torch.tensor([row])
    minimum = translated(quadloom.row_minimum.default, x)
    scale = translated(quadloom.row_scale.default, x, minimum, 0.0, levels)
    zero = translated(quadloom.zero_point.default, scale, minimum, 0.0, levels)
    stored = translated(quadloom.quantize.default, x, scale, zero)
    assert_same_but_for_ties(stored, semantic_ops.quantize(x, scale, zero), x / scale[:, None])
    assert int(stored.max()) <= semantic_ops.smallest_stored(levels) + levels


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
