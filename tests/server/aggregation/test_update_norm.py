"""The norm of an update against numpy's own, and clipping that only ever shortens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quadloom_server.aggregation.norm import clipped, update_norm

TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=4),
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=2, max_side=5),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    min_size=1,
    max_size=4,
)


def reference_norm(tensors: dict[str, np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate([value.astype(np.float64).ravel() for value in tensors.values()])))


@given(TENSORS)
def test_the_norm_is_that_of_all_values_in_one_vector(tensors: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(update_norm(tensors), reference_norm(tensors), rtol=1e-12)


@given(TENSORS, st.floats(1e-3, 1e5))
def test_clipping_shortens_to_the_bound_and_keeps_the_direction(tensors: dict[str, np.ndarray], norm: float) -> None:
    found = clipped(tensors, norm=norm)
    before, after = reference_norm(tensors), reference_norm(found)
    np.testing.assert_allclose(after, min(before, norm), rtol=1e-5)
    for name, value in tensors.items():
        assert found[name].dtype == np.float32
        expected = value if before <= norm else value.astype(np.float64) * (norm / before)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-37)


@given(TENSORS, st.floats(1e-3, 1e5))
def test_an_update_within_the_bound_stays_bit_for_bit(tensors: dict[str, np.ndarray], spare: float) -> None:
    found = clipped(tensors, norm=update_norm(tensors) + spare)
    assert all(found[name].tobytes() == value.tobytes() for name, value in tensors.items())
