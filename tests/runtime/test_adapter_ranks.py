"""The parameter table at a lower rank."""

import pytest

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.errors import QuadloomError

A = ParameterSpec(name="query.lora_A.weight", shape=(4, 12), layer=0, rank=4)
B = ParameterSpec(name="query.lora_B.weight", shape=(10, 4), layer=0, rank=4)
HEAD = ParameterSpec(name="classifier.weight", shape=(2, 12), layer="head", rank=None)
OTHER = ParameterSpec(name="query.magnitude", shape=(4, 4), layer=0, rank=4)


def test_a_has_fewer_rows_and_b_fewer_columns_and_the_head_stays() -> None:
    low_a, low_b, head = rows_at_rank([A, B, HEAD], 1)
    assert (low_a.shape, low_b.shape) == ((1, 12), (10, 1))
    assert (low_a.rank, low_b.rank, low_a.name) == (1, 1, A.name)
    assert head == HEAD


def test_at_its_own_rank_a_table_is_what_it_was_whatever_its_tensors_are_called() -> None:
    assert rows_at_rank([A, OTHER, HEAD], 4) == (A, OTHER, HEAD)


@pytest.mark.parametrize(("row", "rank"), [(A, 0), (A, -1), (B, 5), (OTHER, 2)])
def test_a_rank_that_a_tensor_cannot_have_is_refused_with_its_name(row: ParameterSpec, rank: int) -> None:
    with pytest.raises(QuadloomError, match=row.name):
        rows_at_rank([HEAD, row], rank)
