"""The streaming mean against the dense one: all updates stacked in float64, weighted per tensor."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.running_mean import RunningMean, apply, fold

SHAPES = {"layer.0": (2, 3), "layer.1": (4,), "head": (1, 2)}
numbers = st.floats(-1000, 1000, width=32)
Contribution = tuple[dict[str, FloatArray], int]


@st.composite
def contributions(draw: st.DrawFn) -> list[Contribution]:
    """Updates of devices that each train some of the tensors."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        names = draw(st.sets(st.sampled_from(sorted(SHAPES))))
        tensors = {name: draw(arrays(np.float32, SHAPES[name], elements=numbers)) for name in sorted(names)}
        found.append((tensors, draw(st.integers(1, 1_000_000_000))))
    return found


def streamed(parameters: dict[str, FloatArray], updates: list[Contribution]) -> dict[str, FloatArray]:
    mean = RunningMean()
    for tensors, examples in updates:
        mean = fold(mean, tensors, examples=examples)
    return apply(parameters, mean)


def initial() -> dict[str, FloatArray]:
    random = np.random.default_rng(3)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@given(contributions())
def test_the_stream_equals_the_dense_weighted_mean_per_tensor(updates: list[Contribution]) -> None:
    parameters = initial()
    result = streamed(parameters, updates)
    for name, before in parameters.items():
        stacked = [(tensors[name].astype(np.float64), examples) for tensors, examples in updates if name in tensors]
        expected = before
        if stacked:
            weights = np.array([examples for _, examples in stacked], dtype=np.float64)
            values = np.stack([value for value, _ in stacked])
            expected = before + np.tensordot(weights / weights.sum(), values, axes=1)
        np.testing.assert_allclose(result[name], expected, rtol=1e-6, atol=1e-6)
        assert result[name].dtype == np.float32


@given(contributions(), st.randoms())
def test_the_order_of_arrival_does_not_show(updates: list[Contribution], random: "np.random.Generator") -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)
    first, second = streamed(initial(), updates), streamed(initial(), shuffled)
    for name in SHAPES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6, atol=1e-6)


def test_a_tensor_that_nobody_trained_keeps_its_bits() -> None:
    parameters = initial()
    result = streamed(parameters, [({"head": np.ones((1, 2), np.float32)}, 3)])
    assert result["layer.0"].tobytes() == parameters["layer.0"].tobytes()
    np.testing.assert_allclose(result["head"], parameters["head"] + 1, rtol=1e-6)


def test_a_layer_is_not_diluted_by_devices_that_do_not_train_it() -> None:
    updates: list[Contribution] = [
        ({"layer.0": np.full((2, 3), 4, np.float32), "head": np.full((1, 2), 4, np.float32)}, 10),
        ({"head": np.zeros((1, 2), np.float32)}, 30),
    ]
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    result = streamed(zeros, updates)
    np.testing.assert_array_equal(result["layer.0"], np.full((2, 3), 4, np.float32))
    np.testing.assert_array_equal(result["head"], np.ones((1, 2), np.float32))


def test_the_running_state_does_not_grow_with_updates_and_keeps_what_it_was() -> None:
    update = {"head": np.ones((1, 2), np.float32)}
    once = fold(RunningMean(), update, examples=2)
    before = once.sums["head"].copy()
    many = once
    for _ in range(100):
        many = fold(many, update, examples=2)
    np.testing.assert_array_equal(once.sums["head"], before)
    assert sum(value.nbytes for value in many.sums.values()) == sum(value.nbytes for value in once.sums.values())
    assert many.examples["head"] == 202
