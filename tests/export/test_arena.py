"""The memory planner of ExecuTorch programs."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from quadloom_export.lowering.arena import Tenancy, best_fit, lower_bound_bytes, plan_arena

TENANCIES = st.lists(
    st.builds(
        lambda first, length, size: Tenancy(first, first + length, size),
        st.integers(0, 20),
        st.integers(0, 10),
        st.integers(0, 1000),
    ),
    max_size=25,
)


@given(TENANCIES)
def test_tensors_that_are_alive_together_never_overlap(tenancies: list[Tenancy]) -> None:
    arena = plan_arena(tenancies)
    placed = list(zip(tenancies, arena.offsets, strict=True))
    assert arena.size_bytes == max((offset + each.size_bytes for each, offset in placed), default=0)
    for (a, at_a), (b, at_b) in combinations(placed, 2):
        if a.first <= b.last and b.first <= a.last:
            assert at_a + a.size_bytes <= at_b or at_b + b.size_bytes <= at_a


@given(TENANCIES)
def test_the_lower_bound_is_what_is_alive_at_the_worst_position(tenancies: list[Tenancy]) -> None:
    alive = [sum(each.size_bytes for each in tenancies if each.first <= now <= each.last) for now in range(32)]
    assert lower_bound_bytes(tenancies) == max(alive)
    assert plan_arena(tenancies).size_bytes >= max(alive)


def test_a_tensor_takes_the_smallest_gap_that_holds_it() -> None:
    pillars = [Tenancy(0, 0, 50), Tenancy(0, 9, 10), Tenancy(0, 0, 20), Tenancy(0, 9, 10)]
    arena = best_fit([*pillars, Tenancy(1, 9, 20)], range(5))
    assert arena.offsets == (0, 50, 60, 80, 60)


def test_an_arena_that_the_largest_first_order_misses_is_found() -> None:
    tenancies = [Tenancy(3, 6, 6), Tenancy(2, 3, 4), Tenancy(0, 2, 4), Tenancy(1, 1, 6)]
    largest_first = sorted(range(4), key=lambda i: -tenancies[i].size_bytes)
    assert best_fit(tenancies, largest_first).size_bytes > lower_bound_bytes(tenancies)
    assert plan_arena(tenancies).size_bytes == lower_bound_bytes(tenancies) == 10
