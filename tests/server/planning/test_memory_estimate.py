"""Memory safety: what ran out of memory is not tried again, what comes next is smaller, no limit is exceeded."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.planning.fleets import MEGABYTE, context, device, member, physical_family

from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.planning.memory_estimate import MemoryEstimate, after_out_of_memory, after_step
from quadloom_server.planning.registry import PLANNERS

PEAK = member(1, megabytes=20)


def test_without_reports_the_familys_estimate_holds() -> None:
    assert MemoryEstimate().needed_bytes(PEAK) == needed_bytes(PEAK)


@given(limit=st.integers(26 * MEGABYTE, 400 * MEGABYTE), megabytes=st.floats(0.1, 20))
def test_after_out_of_memory_the_member_does_not_fit_and_every_estimate_grows(limit: int, megabytes: float) -> None:
    found = after_out_of_memory(MemoryEstimate(), PEAK, limit_bytes=limit)
    assert found.needed_bytes(PEAK) > limit
    other = member(1, megabytes=megabytes)
    assert needed_bytes(other) <= found.needed_bytes(other) <= found.needed_bytes(PEAK)


def test_formats_are_corrected_apart() -> None:
    found = after_out_of_memory(MemoryEstimate(), PEAK, limit_bytes=30 * MEGABYTE)
    other = member(1, megabytes=20, format_name="executorch")
    assert found.needed_bytes(other) == needed_bytes(other)


def test_a_peak_above_the_estimate_corrects_it_and_one_below_does_not() -> None:
    found = after_step(MemoryEstimate(), PEAK, peak_bytes=36 * MEGABYTE)
    assert found.needed_bytes(PEAK) == pytest.approx(36 * MEGABYTE, abs=1)
    assert after_step(found, PEAK, peak_bytes=10 * MEGABYTE) == found


def test_what_a_small_member_takes_beyond_its_estimate_is_no_share_of_a_large_one() -> None:
    """Its process takes 4 MB more than thought: ten times its graph, and still 4 MB with a larger graph."""
    small, large = member(0, megabytes=0.4), member(1, megabytes=20)
    found = after_step(MemoryEstimate(), small, peak_bytes=needed_bytes(small) + 4 * MEGABYTE)
    assert found.needed_bytes(large) == needed_bytes(large) + 4 * MEGABYTE


@given(
    seen=st.lists(
        st.tuples(st.sampled_from([0.4, 5.0, 20.0]), st.integers(1, 60), st.booleans()), min_size=1, max_size=6
    )
)
def test_whatever_a_device_went_through_no_estimate_is_below_it(seen: list[tuple[float, int, bool]]) -> None:
    estimate = MemoryEstimate()
    for megabytes, seen_megabytes, failed in seen:
        one, size = member(1, megabytes=megabytes), seen_megabytes * MEGABYTE
        before = estimate
        if failed:
            estimate = after_out_of_memory(estimate, one, limit_bytes=size)
        else:
            estimate = after_step(estimate, one, peak_bytes=size)
        assert all(
            before.needed_bytes(each) <= estimate.needed_bytes(each)
            for each in (member(1, megabytes=other) for other in (0.4, 5.0, 20.0))
        )
    for megabytes, seen_megabytes, failed in seen:
        needed = estimate.needed_bytes(member(1, megabytes=megabytes))
        assert needed > seen_megabytes * MEGABYTE if failed else needed >= seen_megabytes * MEGABYTE


@pytest.mark.parametrize("name", ["deadline", "deadline-of-others", "deepest", "fedquad"])
@settings(deadline=None, max_examples=15)
@given(megabytes=st.floats(5, 45), excess=st.floats(1.0, 3.0))
def test_a_device_that_keeps_running_out_of_memory_gets_ever_smaller_members_until_one_fits(
    name: str, megabytes: float, excess: float
) -> None:
    """Its true peaks are up to three times the estimated ones."""
    members = {each.key: each for each in physical_family(3, percents=(3, 30))}
    one = device("one", megabytes)
    limit, tried = one.capabilities.memory_limit_bytes, []
    while True:
        key = PLANNERS[name](context(list(members.values()), [one]))["one"].member
        if key is None:
            break
        needed = needed_bytes(members[key])
        assert one.memory.needed_bytes(members[key]) <= limit
        assert all(needed < earlier for earlier in tried)
        if excess * needed <= limit:
            break
        tried.append(needed)
        one = replace(one, memory=after_out_of_memory(one.memory, members[key], limit_bytes=limit))
    assert key is not None or all(excess * needed_bytes(each) > limit / 1.2 for each in members.values())
