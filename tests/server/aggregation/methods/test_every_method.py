"""What holds for all methods, or for all but those that say otherwise."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.aggregation.lora_updates import (
    HEAD,
    RANK,
    RANKS,
    aggregate,
    assert_same_model,
    dense_products,
    fresh_adapter,
    make_layout,
    parameter_table,
    random_adapter,
    train,
)

from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.adapter_layout import AdapterLayout
from quadloom_server.aggregation.factors import padded
from quadloom_server.aggregation.method import Aggregation, TrainedUpdate, WrongRankError
from quadloom_server.aggregation.methods.select import METHODS, make_aggregation

every_method = pytest.mark.parametrize("name", METHODS)
few_examples = settings(deadline=None, max_examples=15)


def fleet(method: Aggregation[Any], seed: int, devices: int) -> list[TrainedUpdate]:
    """Devices of all ranks and depths, and of different weights."""
    random = np.random.default_rng(seed)
    return [
        train(
            method,
            random_adapter(),
            rank=int(random.choice(RANKS)),
            seed=int(random.integers(10**9)),
            weight=float(random.integers(1, 1000)),
            first_layer=int(random.integers(3)),
        )
        for _ in range(devices)
    ]


@every_method
@few_examples
@given(seed=st.integers(0, 10**6), devices=st.integers(1, 8), random=st.randoms())
def test_the_order_of_arrival_does_not_show(name: str, seed: int, devices: int, random: Any) -> None:
    method = make_aggregation(name, make_layout())
    updates = fleet(method, seed, devices)
    shuffled = list(updates)
    random.shuffle(shuffled)
    first, second = (aggregate(method, random_adapter(), each) for each in (updates, shuffled))
    assert_same_model(first, second, tolerance=1e-6)


@every_method
@few_examples
@given(seed=st.integers(0, 10**6), devices=st.integers(1, 5))
def test_a_device_split_into_two_with_half_the_examples_each_counts_the_same(
    name: str, seed: int, devices: int
) -> None:
    method = make_aggregation(name, make_layout())
    updates = fleet(method, seed, devices)
    first = updates[0]
    half = TrainedUpdate(start=first.start, trained=first.trained, weight=first.weight / 2)
    whole, split = (aggregate(method, random_adapter(), each) for each in (updates, [half, *updates[1:], half]))
    assert_same_model(whole, split, tolerance=1e-6)


def with_zero_terms(layout: AdapterLayout, update: TrainedUpdate) -> TrainedUpdate:
    """The same products at the full rank."""

    def full(tensors: Any) -> Any:
        found = dict(tensors)
        for pair in layout.pairs_in(tensors):
            found |= layout.tensors(pair, padded(layout.factors(pair, tensors), RANK))
        return found

    return TrainedUpdate(start=full(update.start), trained=full(update.trained), weight=update.weight)


# Where terms are averaged over those that hold them, zeros are what a device trained there.
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"fedavg", "rank-segments"}))
@few_examples
@given(seed=st.integers(0, 10**6), devices=st.integers(1, 5))
def test_terms_of_zero_change_nothing(name: str, seed: int, devices: int) -> None:
    layout = make_layout()
    method = make_aggregation(name, layout)
    updates = fleet(method, seed, devices)
    wider = [with_zero_terms(layout, each) for each in updates]
    found, expected = (aggregate(method, random_adapter(), each) for each in (wider, updates))
    assert_same_model(found, expected, tolerance=1e-5)


@every_method
def test_a_layer_that_nobody_trained_keeps_its_bits(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    found = aggregate(method, parameters, [train(method, parameters, rank=RANK, seed=1, first_layer=1)])
    for row in parameter_table():
        same = found[row.name].tobytes() == parameters[row.name].tobytes()
        assert same == (row.layer == 0), row.name


@every_method
def test_a_round_without_updates_changes_nothing(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    found = aggregate(method, parameters, [])
    assert {key: value.tobytes() for key, value in found.items()} == {
        key: value.tobytes() for key, value in parameters.items()
    }


@every_method
def test_a_layer_that_one_device_trained_is_its_and_not_diluted_by_the_rest(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    deep = train(method, parameters, rank=RANK, seed=1, weight=1)
    shallow = [train(method, parameters, rank=RANK, seed=seed, weight=1000, first_layer=1) for seed in (2, 3)]
    found = dense_products(aggregate(method, parameters, [*shallow, deep]))
    for pair in make_layout().pairs:
        if pair.layer == 0:
            np.testing.assert_allclose(found[pair.b], dense_products(deep.trained)[pair.b], rtol=1e-4, atol=1e-4)


@every_method
def test_heads_are_averaged_by_weight(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    updates = [train(method, parameters, rank=RANK, seed=seed, weight=seed) for seed in (1, 3)]
    found = aggregate(method, parameters, updates)
    for head in HEAD:
        expected = (updates[0].trained[head] + 3 * updates[1].trained[head]) / 4
        np.testing.assert_allclose(found[head], expected, rtol=1e-5, atol=1e-6)


@every_method
def test_equal_updates_of_full_rank_become_the_model_themselves(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    update = train(method, parameters, rank=RANK, seed=1, weight=7)
    assert_same_model(aggregate(method, parameters, [update] * 3), {**parameters, **update.trained}, tolerance=1e-4)


@every_method
def test_folding_leaves_the_state_before_as_it_was(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    updates = fleet(method, 5, 3)
    state = method.fold(method.begin(), updates[0])
    before = method.finish(parameters, state)
    method.fold(method.fold(state, updates[1]), updates[2])
    after = method.finish(parameters, state)
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)


@every_method
def test_the_adapter_keeps_its_shapes_at_every_rank_and_float32(name: str) -> None:
    method = make_aggregation(name, make_layout())
    found = aggregate(method, random_adapter(), fleet(method, 6, 4))
    for rank in RANKS:
        given_out = method.at_rank(found, rank)
        for row in parameter_table(rank):
            assert given_out[row.name].shape == row.shape
            assert given_out[row.name].dtype == np.float32


@every_method
def test_a_fresh_adapter_can_be_trained_at_every_rank(name: str) -> None:
    method = make_aggregation(name, make_layout())
    for rank in RANKS:
        given_out = method.at_rank(fresh_adapter(), rank)
        assert all(np.abs(given_out[pair.a]).max(axis=1).min() > 0 for pair in make_layout().pairs)


@every_method
@pytest.mark.parametrize("rank", [0, RANK + 1])
def test_a_rank_that_the_adapter_has_not_is_refused(name: str, rank: int) -> None:
    with pytest.raises(WrongRankError, match=f"rank {rank}"):
        make_aggregation(name, make_layout()).at_rank(random_adapter(), rank)


@every_method
def test_an_update_of_a_larger_rank_is_refused(name: str) -> None:
    method = make_aggregation(name, make_layout())
    wide = random_adapter(rank=8)
    with pytest.raises(WrongRankError, match="rank 8"):
        method.fold(method.begin(), TrainedUpdate(start=wide, trained=wide, weight=1))


def array_bytes(value: Any) -> int:
    """All arrays inside a state, however it is nested."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(array_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(array_bytes, value))
    return array_bytes(vars(value)) if hasattr(value, "__dict__") else 0


@every_method
def test_the_state_stops_growing_over_500_updates_of_all_but_stacking(name: str) -> None:
    method, parameters = make_aggregation(name, make_layout()), random_adapter()
    random, state, sizes = np.random.default_rng(7), method.begin(), []
    starts = {rank: method.at_rank(parameters, rank) for rank in RANKS}
    for number in range(500):
        start = starts[RANKS[number % len(RANKS)]]
        trained = {
            key: (value + random.standard_normal(value.shape)).astype(np.float32) for key, value in start.items()
        }
        state = method.fold(state, TrainedUpdate(start=start, trained=trained, weight=1))
        sizes.append(array_bytes(state))
    growth = max(sizes[100:]) / max(sizes[:100])
    if name == "flora":
        assert math.isclose(growth, 5, rel_tol=0.05)
    else:
        assert growth <= 1


def test_a_name_that_no_method_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(QuadloomError, match="flexlora-change") as refused:
        make_aggregation("flexlra", make_layout())
    assert "'flexlra'" in refused.value.cause
