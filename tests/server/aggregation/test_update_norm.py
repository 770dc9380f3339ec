"""The norm of an update against numpy's own, and scaling that ends at a bound."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quadloom_server.aggregation.norm import bounded, update_norm

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
def test_an_update_ends_at_the_bound_and_keeps_its_direction(
    tensors: dict[str, np.ndarray], largest_norm: float
) -> None:
    found, norm = bounded(tensors, largest_norm=largest_norm), reference_norm(tensors)
    np.testing.assert_allclose(reference_norm(found), min(norm, largest_norm), rtol=1e-9)
    shortened = 1.0 if norm <= largest_norm else largest_norm / norm
    for name, value in tensors.items():
        np.testing.assert_allclose(found[name], shortened * value.astype(np.float64), rtol=1e-9)


@given(TENSORS, st.floats(1e-3, 1e5))
def test_an_update_within_the_bound_stays_as_it_is(tensors: dict[str, np.ndarray], spare: float) -> None:
    for largest_norm in (None, update_norm(tensors) + spare):
        found = bounded(tensors, largest_norm=largest_norm)
        assert all(np.array_equal(found[name], value) for name, value in tensors.items())
