"""The planner by memory alone: what fits, the deepest of it, the fastest of these, and words for why."""

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.planning.fleets import MEGABYTE, RANK, device, member

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_server.planning.cost_model import QUANTIZATION_OPERATIONS, ReferenceCost, step_seconds
from quadloom_server.planning.deepest_each import deepest_each
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.planning.round_plan import PlannedWork, RoundContext

sizes = st.integers(min_value=1, max_value=1000)
keys = st.tuples(
    st.integers(0, 6), st.integers(0, 6), st.sampled_from([0, 3, 30]), st.sampled_from(["onnx", "executorch"])
).filter(lambda key: key[1] <= key[0])
figures = st.tuples(sizes, st.none() | st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 2e-7, 0.01]))
families = st.dictionaries(keys, figures, min_size=1).map(
    lambda found: [
        member(
            depth,
            quantized,
            percent=percent,
            megabytes=megabytes,
            elements=quantized,
            step_s=step_s,
            error=error,
            format_name=name,
        )
        for (depth, quantized, percent, name), (megabytes, step_s, error) in found.items()
    ]
)
formats = st.lists(st.sampled_from(["onnx", "executorch"]), min_size=1, unique=True)


def planned(
    members: Sequence[MemberSpec],
    megabytes: float,
    runs: Sequence[str] = ("onnx",),
    *,
    excluded: Collection[MemberKey] = (),
) -> PlannedWork:
    """What a device with so much memory beside the reserve does."""
    measured = all(each.measured_step_s for each in members)
    references = {each.key: ReferenceCost(*step_seconds(each, measured=measured)) for each in members}
    one = device("one", megabytes, formats=runs, excluded=frozenset(excluded))
    return deepest_each(RoundContext(members, references, 6, [one], steps=10, rank=RANK))["one"]


@given(families, sizes, formats, st.data())
def test_the_choice_fits_runs_and_is_not_excluded(
    members: list[MemberSpec], megabytes: int, runs: list[str], data: st.DataObject
) -> None:
    excluded = data.draw(st.sets(st.sampled_from([each.key for each in members])))
    work = planned(members, megabytes, runs, excluded=excluded)
    possible = {
        each.key
        for each in members
        if each.key.format in runs and each.key not in excluded and (each.measured_peak_bytes or 0) <= megabytes * 10**6
    }
    assert (work.member in possible) if possible else (work.member is None)
    assert work.reason
    if work.member is not None:
        assert work.member.depth == max(key.depth for key in possible)


@given(families, sizes, formats)
def test_no_other_member_of_that_depth_that_fits_is_faster(
    members: list[MemberSpec], megabytes: int, runs: list[str]
) -> None:
    chosen = planned(members, megabytes, runs).member
    rivals = [
        each
        for each in members
        if each.key.format in runs
        and (each.measured_peak_bytes or 0) <= megabytes * 10**6
        and chosen
        and each.key.depth == chosen.depth
    ]
    if all(each.measured_step_s is not None for each in members):
        cost = {each.key: each.measured_step_s or 0.0 for each in rivals}
    else:
        cost = {
            each.key: each.forward_operations + QUANTIZATION_OPERATIONS * float(each.quantized_elements)
            for each in rivals
        }
    assert all(cost[chosen] <= other * (1 + 1e-9) for other in cost.values() if chosen)


@given(families, sizes, formats, sizes)
def test_more_memory_never_gives_a_shallower_member(
    members: list[MemberSpec], megabytes: int, runs: list[str], more: int
) -> None:
    small, large = planned(members, megabytes, runs).member, planned(members, megabytes + more, runs).member
    if small is not None:
        assert large is not None
        assert large.depth >= small.depth


def test_the_format_that_the_device_names_first_wins_among_equals() -> None:
    members = [member(1), member(1, format_name="executorch")]
    for first, second in (("onnx", "executorch"), ("executorch", "onnx")):
        chosen = planned(members, 10, (first, second)).member
        assert chosen is not None
        assert chosen.format == first


def two_budgets() -> list[MemberSpec]:
    """Depth 2 at budgets of 3 and 30 %: peaks of 40, 20, 30 and 12 MB, and takes ever longer."""
    points = {(0, 3): (40, 1.0), (2, 3): (20, 1.1), (0, 30): (30, 1.2), (2, 30): (12, 1.3)}
    return [member(1, percent=3, step_s=0.9)] + [
        member(2, quantized, percent=percent, megabytes=megabytes, step_s=step_s)
        for (quantized, percent), (megabytes, step_s) in points.items()
    ]


@pytest.mark.parametrize(
    ("megabytes", "expected"), [(40, "d02-q00-r03"), (30, "d02-q02-r03"), (19, "d02-q02-r30"), (11, "d01-q00-r03")]
)
def test_a_device_recomputes_more_only_if_it_must(megabytes: int, expected: str) -> None:
    work = planned(two_budgets(), megabytes)
    assert work.member is not None
    assert work.member.label == expected
    assert work.reason.startswith("deepest that fits, then fastest: ")


def test_without_measurements_a_step_takes_its_multiply_adds_and_its_quantization() -> None:
    repeats = member(1, percent=10, operations=2100)
    quantizes = member(1, 1, operations=2000, elements=1)
    assert QUANTIZATION_OPERATIONS < 100
    for members in ([repeats, quantizes], [quantizes, repeats]):
        assert planned(members, 10).member == quantizes.key


def test_one_member_without_a_measured_time_has_all_of_them_estimated() -> None:
    slow = member(1, step_s=9.0, operations=1000)
    unmeasured = member(1, percent=30, operations=1300)
    assert planned([unmeasured, slow], 10).member == slow.key


def test_of_equally_fast_members_the_most_precise_is_chosen_whatever_the_rounding_of_its_format() -> None:
    rough = member(2, percent=3, step_s=1.0, error=0.02)
    close = member(2, percent=4, step_s=1.0, error=0.01)
    assert planned([rough, close], 10).member == close.key
    rounded = member(2, percent=4, step_s=1.0, error=0.01 - 1e-7, format_name="executorch")
    assert planned([rounded, close], 10, ("onnx", "executorch")).member == close.key


def test_when_nothing_fits_the_reason_names_the_smallest_need() -> None:
    work = planned([member(0, megabytes=12), member(1, megabytes=20)], 5)
    assert work.member is None
    assert "d00-q00, needs 16.0 MB, the device may use 9.0 MB" in work.reason  # each with the reserve of 4 MB


def test_when_a_larger_member_ran_out_of_memory_the_reason_says_so() -> None:
    small, large = member(1, megabytes=12), member(2, megabytes=20)
    assert "after a larger one ran out of memory" in planned([small, large], 30, excluded=[large.key]).reason
    assert "every member ran out of memory on this device, the smallest being d01-q00" in (
        planned([small, large], 30, excluded=[small.key, large.key]).reason
    )


def test_a_device_without_a_common_format_is_told_both_sides() -> None:
    work = planned([member(0)], 10, ("ort-training",))
    assert work.member is None
    assert "onnx" in work.reason
    assert "ort-training" in work.reason


def test_at_its_reserve_a_member_needs_what_the_family_says() -> None:
    """The limit is met to the byte."""
    one = member(1, megabytes=20)
    assert planned([one], 20).member == one.key
    assert planned([one], 20 - 1 / MEGABYTE).member is None
    assert needed_bytes(one) == 24 * MEGABYTE
