"""What a device of any rank gets."""

import numpy as np
import pytest
from tests.server.aggregation.lora_updates import (
    ALPHA,
    HEAD,
    dense_products,
    fresh_adapter,
    make_layout,
    nearest,
    random_adapter,
)

from quadloom_server.aggregation.method import WrongRankError
from quadloom_server.aggregation.redistribution import nearest_at_rank

BOTH_SPLITS = pytest.mark.parametrize("balanced", [False, True])


@BOTH_SPLITS
@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_device_gets_the_nearest_product_of_its_rank(rank: int, balanced: bool) -> None:
    parameters = random_adapter()
    found = nearest_at_rank(make_layout(), parameters, rank, balanced=balanced)
    for name, product in dense_products(parameters).items():
        assert found[name].shape[1] == rank
        np.testing.assert_allclose(dense_products(found)[name], nearest(product, rank), rtol=1e-5, atol=1e-5)
    for name in HEAD:
        np.testing.assert_array_equal(found[name], parameters[name])


@BOTH_SPLITS
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_fresh_adapter_stays_trainable_at_every_rank(rank: int, balanced: bool) -> None:
    parameters = fresh_adapter()
    found = nearest_at_rank(make_layout(), parameters, rank, balanced=balanced)
    for pair in make_layout().pairs:
        assert not found[pair.b].any()
        np.testing.assert_array_equal(found[pair.a], parameters[pair.a][:rank])


@BOTH_SPLITS
def test_a_term_without_energy_keeps_its_row_of_a(balanced: bool) -> None:
    layout, parameters = make_layout(), random_adapter()
    pair = layout.pairs[0]
    parameters[pair.b][:, 2:] = 0
    found = nearest_at_rank(layout, parameters, 4, balanced=balanced)
    np.testing.assert_allclose(dense_products(found)[pair.b], dense_products(parameters)[pair.b], rtol=1e-5, atol=1e-5)
    assert not found[pair.b][:, 2:].any()
    np.testing.assert_array_equal(found[pair.a][2:], parameters[pair.a][2:])


@pytest.mark.parametrize("rank", [2, 4])
def test_balanced_factors_have_the_same_norm_term_by_term_and_others_leave_all_to_b(rank: int) -> None:
    parameters = random_adapter()
    shared, left = (nearest_at_rank(make_layout(), parameters, rank, balanced=balanced) for balanced in (True, False))
    for name, product in dense_products(parameters).items():
        values = np.linalg.svd(product, compute_uv=False)[:rank] / (ALPHA / rank)
        other = name.replace("lora_B", "lora_A")
        np.testing.assert_allclose(np.linalg.norm(shared[other], axis=1), np.sqrt(values), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(shared[name], axis=0), np.sqrt(values), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(left[other], axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(left[name], axis=0), values, rtol=1e-5)


def test_balanced_a_term_of_hardly_any_energy_keeps_a_row_of_a_that_can_be_trained() -> None:
    layout, parameters = make_layout(), random_adapter()
    pair = layout.pairs[0]
    parameters[pair.b][:, 3] *= 1e-12
    found = nearest_at_rank(layout, parameters, 4, balanced=True)
    rows = np.linalg.norm(found[pair.a], axis=1)
    assert rows[3] == pytest.approx(0.01 * rows[0], rel=1e-3)
    np.testing.assert_allclose(dense_products(found)[pair.b], dense_products(parameters)[pair.b], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_the_adapter_has_not_is_refused(rank: int) -> None:
    with pytest.raises(WrongRankError, match="1 to 4"):
        nearest_at_rank(make_layout(), random_adapter(), rank)
