"""Server steps against closed forms written apart from the code."""

import math

import numpy as np
import pytest
from tests.server.aggregation.lora_updates import make_layout

from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.methods.select import METHODS, make_aggregation
from quadloom_server.aggregation.server_optimizer import (
    FedAdam,
    FedAvgMomentum,
    FedAvgStep,
    Moments,
    ServerOptimizer,
    check_combination,
)


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_federated_averaging_at_rate_one_is_the_aggregate_bit_by_bit() -> None:
    aggregate = {"x": vector(0.1, 1e-7)}
    found, _ = FedAvgStep().step(Moments(), {"x": vector(1e7, 3)}, aggregate, round_index=1)
    assert found["x"].tobytes() == aggregate["x"].tobytes()


def test_federated_averaging_goes_its_rate_of_the_way() -> None:
    found, _ = FedAvgStep(rate=0.25).step(Moments(), {"x": vector(1, 2)}, {"x": vector(5, -2)}, round_index=9)
    np.testing.assert_allclose(found["x"], [2, 1])


def test_federated_averaging_with_decay_goes_half_of_its_way_after_three_times_so_many_rounds() -> None:
    optimizer = FedAvgStep(rate=0.8, decay_rounds=20)
    moved = {
        number: optimizer.step(Moments(), {"x": vector(0)}, {"x": vector(1)}, round_index=number)[0]["x"][0]
        for number in (1, 60, 1980)
    }
    assert moved == pytest.approx({1: 0.8 / math.sqrt(1.05), 60: 0.4, 1980: 0.08})


def test_fed_adam_equals_its_sums_written_out() -> None:
    """m_t = (1 - b1) sum_i b1^(t-i) d_i and v_t = b2^t tau^2 + (1 - b2) sum_i b2^(t-i) d_i^2, entry by entry."""
    optimizer = FedAdam(rate=0.1, beta1=0.8, beta2=0.9, tau=0.05)
    changes = [[0.5, -1.0], [0.25, 0.0], [-2.0, 1e-3], [0.75, 0.5]]
    parameters, state = {"x": vector(1, -1)}, Moments()
    expected = [1.0, -1.0]
    for t, change in enumerate(changes, start=1):
        aggregate = {"x": (parameters["x"] + np.array(change)).astype(np.float32)}
        parameters, state = optimizer.step(state, parameters, aggregate, round_index=t)
        for entry in range(2):
            past = [each[entry] for each in changes[:t]]
            m = 0.2 * sum(0.8 ** (t - i) * d for i, d in enumerate(past, start=1))
            v = 0.9**t * 0.05**2 + 0.1 * sum(0.9 ** (t - i) * d * d for i, d in enumerate(past, start=1))
            expected[entry] += 0.1 * m / (math.sqrt(v) + 0.05)
        np.testing.assert_allclose(parameters["x"], expected, rtol=1e-5)
        assert parameters["x"].dtype == np.float32


def test_momentum_equals_its_sum_written_out() -> None:
    """v_t = sum_i momentum^(t-i) d_i, entry by entry."""
    optimizer = FedAvgMomentum(rate=0.25, momentum=0.7)
    changes = [[0.5, -1.0], [0.25, 0.0], [-2.0, 1e-3], [0.75, 0.5]]
    parameters, state = {"x": vector(1, -1)}, Moments()
    expected = [1.0, -1.0]
    for t, change in enumerate(changes, start=1):
        aggregate = {"x": (parameters["x"] + np.array(change)).astype(np.float32)}
        parameters, state = optimizer.step(state, parameters, aggregate, round_index=t)
        for entry in range(2):
            expected[entry] += 0.25 * sum(0.7 ** (t - i) * each[entry] for i, each in enumerate(changes[:t], start=1))
        np.testing.assert_allclose(parameters["x"], expected, rtol=1e-5)
        assert parameters["x"].dtype == np.float32


@pytest.mark.parametrize("optimizer", [FedAdam(), FedAvgMomentum()])
def test_what_nobody_trained_is_left_alone_with_its_moments(optimizer: ServerOptimizer) -> None:
    before = {"x": vector(1, 2), "y": vector(3)}
    first, state = optimizer.step(Moments(), before, {"x": vector(2, 3), "y": vector(4)}, round_index=1)
    second, after = optimizer.step(state, first, {"x": first["x"] + 1, "y": first["y"]}, round_index=2)
    assert second["y"].tobytes() == first["y"].tobytes()
    assert after.mean["y"] is state.mean["y"]
    assert (second["x"] != first["x"]).all()


@pytest.mark.parametrize("optimizer", [FedAdam(), FedAvgMomentum()])
def test_a_step_leaves_the_state_before_as_it_was(optimizer: ServerOptimizer) -> None:
    _, state = optimizer.step(Moments(), {"x": vector(1)}, {"x": vector(2)}, round_index=1)
    copy = state.mean["x"].copy()
    optimizer.step(state, {"x": vector(1)}, {"x": vector(9)}, round_index=2)
    np.testing.assert_array_equal(state.mean["x"], copy)


@pytest.mark.parametrize("name", METHODS)
def test_moments_are_refused_where_the_basis_turns_every_round(name: str) -> None:
    method = make_aggregation(name, make_layout())
    check_combination(FedAvgStep(), method)
    if method.keeps_basis:
        check_combination(FedAdam(), method)
    else:
        with pytest.raises(QuadloomError, match="basis"):
            check_combination(FedAdam(), method)
        with pytest.raises(QuadloomError, match="basis"):
            check_combination(FedAvgStep(rate=0.5), method)
        with pytest.raises(QuadloomError, match="basis"):
            check_combination(FedAvgStep(decay_rounds=20), method)


@pytest.mark.parametrize("name", METHODS)
def test_a_mean_of_rounds_is_refused_where_the_basis_turns_every_round(name: str) -> None:
    method = make_aggregation(name, make_layout())
    if method.keeps_basis:
        check_combination(FedAvgStep(), method, mean_share=0.5)
    else:
        check_combination(FedAvgStep(), method, mean_share=0)
        with pytest.raises(QuadloomError, match=r"mean over 0\.5 of all rounds"):
            check_combination(FedAvgStep(), method, mean_share=0.5)
