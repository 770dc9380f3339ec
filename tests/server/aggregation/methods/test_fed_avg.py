"""Plain averaging, and what it is where ranks differ."""

import numpy as np
import pytest
from tests.server.aggregation.lora_updates import (
    HEAD,
    PREFIX,
    RANK,
    aggregate,
    dense_products,
    make_layout,
    random_adapter,
    train,
)

from quadloom_server.aggregation.methods.fed_avg import FedAvg


def test_a_and_b_are_averaged_apart_which_is_not_the_mean_of_the_products() -> None:
    method, parameters = FedAvg(make_layout()), random_adapter()
    updates = [train(method, parameters, rank=4, seed=seed, weight=weight) for seed, weight in ((1, 1), (2, 3))]
    found = aggregate(method, parameters, updates)
    for name in [f"{PREFIX}.0.query.lora_A.weight", *HEAD]:
        expected = 0.25 * updates[0].trained[name] + 0.75 * updates[1].trained[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    name = f"{PREFIX}.0.query.lora_B.weight"
    mean = sum(w * dense_products(u.trained)[name] for u, w in zip(updates, (0.25, 0.75), strict=True))
    assert np.abs(dense_products(found)[name] - mean).max() > 0.01


def test_every_term_is_averaged_over_the_devices_that_hold_it() -> None:
    method, parameters = FedAvg(make_layout()), random_adapter()
    devices = ((1, 1.0), (2, 3.0), (2, 4.0), (4, 2.0))
    updates = [train(method, parameters, rank=rank, seed=seed, weight=w) for seed, (rank, w) in enumerate(devices)]
    found = aggregate(method, parameters, updates)
    for pair in make_layout().pairs:
        for term in range(RANK):
            holding = [(rank, w, each) for (rank, w), each in zip(devices, updates, strict=True) if term < rank]
            weights = sum(w for _, w, _ in holding)
            a = sum(w * (each.trained[pair.a] - each.start[pair.a])[term] for _, w, each in holding) / weights
            np.testing.assert_allclose(found[pair.a][term], parameters[pair.a][term] + a, rtol=1e-5, atol=1e-6)
            # B counts with its scale, alpha / rank.
            b = sum(w / rank * (each.trained[pair.b] - each.start[pair.b])[:, term] for rank, w, each in holding)
            expected = parameters[pair.b][:, term] + b / weights * RANK
            np.testing.assert_allclose(found[pair.b][:, term], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_devices_of_a_low_rank_alone_leave_the_other_terms_as_they_are(rank: int) -> None:
    method, parameters = FedAvg(make_layout()), random_adapter()
    update = train(method, parameters, rank=rank, seed=1)
    found = aggregate(method, parameters, [update])
    own, whole, before, moved = (dense_products(each) for each in (update.trained, found, parameters, update.start))
    for pair in make_layout().pairs:
        np.testing.assert_array_equal(found[pair.a][rank:], parameters[pair.a][rank:])
        np.testing.assert_array_equal(found[pair.b][:, rank:], parameters[pair.b][:, rank:])
        change = own[pair.b] - moved[pair.b]
        np.testing.assert_allclose(whole[pair.b], before[pair.b] + change, rtol=1e-4, atol=1e-4)
