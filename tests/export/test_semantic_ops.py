"""The operators that the passes add, against closed forms."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quadloom_export.passes.activation import LARGEST_DERIVATIVE, SMALLEST_DERIVATIVE
from quadloom_export.semantic_ops import (
    batch_full,
    batch_tile,
    batched_matmul,
    dequantize,
    dequantize_fixed,
    gelu_derivative,
    gemm,
    quantize,
    quantize_fixed,
    row_minimum,
    row_scale,
    smallest_stored,
    step_share,
    stored_type,
    unit_interval,
    zero_point,
)

magnitudes = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
rows = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=magnitudes)


def stored_rows(x, levels):
    """Each row in its own range: what is stored, and what restores it."""
    minimum = row_minimum(x)
    scale = row_scale(x, minimum, 0.0, levels)
    zero = zero_point(scale, minimum, 0.0, levels)
    return quantize(x, scale, zero), scale, zero


@given(rows, st.sampled_from([255, 15]))
def test_a_quantized_element_is_off_by_half_a_scale_at_most(values, levels):
    x = torch.from_numpy(values)
    stored, scale, zero = stored_rows(x, levels)
    assert stored.dtype == zero.dtype == stored_type(levels)
    smallest = smallest_stored(levels)
    assert smallest <= int(stored.min()) <= int(stored.max()) <= smallest + levels
    error = (dequantize(stored, scale, zero) - x).abs().double()
    rounding = 1e-6 * x.abs().amax(1, keepdim=True).double()
    assert bool((error <= scale[:, None].double() / 2 + rounding).all())


@given(rows, st.sampled_from([255, 15]))
def test_a_row_with_values_around_zero_uses_the_whole_range(values, levels):
    x = torch.from_numpy(values)
    stored = stored_rows(x, levels)[0].int()
    around = (x.amin(1) < -1e-20) & (x.amax(1) > 1e-20)
    assert bool((stored.amax(1) - stored.amin(1) >= levels - 1)[around].all())


@given(rows, st.sampled_from([255, 15]))
def test_zero_is_restored_as_zero(values, levels):
    x = torch.from_numpy(values)
    stored, scale, zero = stored_rows(x, levels)
    assert bool((dequantize(stored, scale, zero)[x == 0] == 0).all())


def test_an_all_zero_row_comes_back_as_zeros():
    x = torch.zeros(2, 8)
    stored, scale, zero = stored_rows(x, 255)
    assert bool((scale > 0).all())
    assert torch.equal(dequantize(stored, scale, zero), x)


def test_gelu_derivative_is_what_autograd_finds():
    x = torch.linspace(-6, 6, 401, requires_grad=True)
    (expected,) = torch.autograd.grad(torch.nn.functional.gelu(x).sum(), x)
    torch.testing.assert_close(gelu_derivative(x.detach()), expected, atol=1e-6, rtol=0)


def test_unit_interval_maps_the_range_of_erf_onto_zero_to_one():
    assert unit_interval(torch.tensor([-1.0, 0.0, 0.5, 1.0])).tolist() == [0.0, 0.5, 0.75, 1.0]


@given(st.booleans(), st.booleans(), st.sampled_from([1.0, -0.5]), st.booleans())
def test_products_apply_transposes_then_factor_then_summand(transpose_a, transpose_b, alpha, with_bias):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((4, 3) if transpose_a else (3, 4), generator=generator)
    b = torch.randn((5, 4) if transpose_b else (4, 5), generator=generator)
    bias = torch.randn(5, generator=generator) if with_bias else None
    plain = torch.einsum("ki,kj->ij" if transpose_a else "ik,kj->ij", a, b.t() if transpose_b else b) * alpha
    expected = plain if bias is None else plain + bias
    torch.testing.assert_close(gemm(a, b, bias, transpose_a, transpose_b, alpha), expected)
    batched = batched_matmul(a[None].repeat(2, 1, 1), b[None].repeat(2, 1, 1), transpose_a, transpose_b, alpha)
    torch.testing.assert_close(batched, plain[None].repeat(2, 1, 1))


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([0, 1, 2]))
def test_batch_sizes_multiply_one_axis(batch, factor, axis):
    reference = torch.zeros(batch, 7)
    shape = [factor if index == axis else 2 for index in range(3)]
    expected = [size * batch if index == axis else size for index, size in enumerate(shape)]
    full = batch_full(reference, shape, axis, 1.5)
    assert list(full.shape) == expected
    assert bool((full == 1.5).all())
    tiled = batch_tile(torch.arange(8.0).reshape(2, 2, 2), reference, shape, axis)
    assert list(tiled.shape) == [2 * size for size in expected]


@given(rows, st.sampled_from([255, 15]), st.sampled_from([0.0, -0.5]))
def test_a_known_lower_bound_gives_a_scale_that_clips_nothing(values, levels, bound):
    bounded = torch.from_numpy(values).clamp(min=bound)
    scale = row_scale(bounded, None, bound, levels)
    assert (scale >= row_scale(bounded, row_minimum(bounded), 0.0, levels)).all()
    zero = zero_point(scale, None, bound, levels)
    stored = quantize(bounded, scale, zero)
    assert int(stored.max()) <= smallest_stored(levels) + levels
    error = (dequantize(stored, scale, zero) - bounded).abs().double()
    assert bool((error <= scale[:, None].double() / 2 + 1e-6 * bounded.abs().amax(1, keepdim=True)).all())


def test_the_bounds_of_the_derivative_of_gelu_are_close():
    slope = gelu_derivative(torch.linspace(-6, 6, 100_001))
    assert SMALLEST_DERIVATIVE <= float(slope.min()) <= SMALLEST_DERIVATIVE + 2e-4
    assert LARGEST_DERIVATIVE - 2e-4 <= float(slope.max()) <= LARGEST_DERIVATIVE


@given(st.floats(-1, 0, width=32), st.floats(0.125, 2, width=32), st.lists(st.floats(0, 1, width=32), min_size=1))
def test_a_fixed_scale_stores_every_value_of_its_range_within_half_a_step_and_zero_as_it_is(low, high, shares):
    scale = (high - low) * step_share(255)
    zero = smallest_stored(255) - round(low / scale)
    values = torch.tensor([low + share * (high - low) for share in shares] + [low, high, 0.0])
    stored = quantize_fixed(values, scale, zero)
    restored = dequantize_fixed(stored, scale, zero)
    assert float((restored - values).abs().max()) <= 0.5 * scale + 1e-6
    assert float(restored[-1]) == 0.0
