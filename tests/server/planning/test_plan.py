"""The planner's promises: what fits, the deepest of it, and words for why."""

import math

from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import BlobReference, GradientError, MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.plan import (
    PLANNED_PEAK_SAFETY,
    RESERVE_BYTES,
    as_demanding_as,
    deepest_that_fits,
    needed_bytes,
)

MEGABYTE = 1_000_000


def member(
    depth: int, quantized: int, *, planned: int, measured: int | None = None, format_name: str = "onnx"
) -> MemberSpec:
    key = MemberKey.model_validate({"depth": depth, "quantized_layers": quantized, "format": format_name})
    return MemberSpec(
        key=key,
        graph=BlobReference(path=f"{format_name}/{key.stem}", sha256="0" * 64, size_bytes=1, media_type="x/y"),
        planned_peak_bytes=planned,
        measured_peak_bytes=measured,
        stash_bytes_before=0,
        stash_bytes_after=0,
        weight_bytes=0,
        forward_operations=0,
        backward_operations=0,
        quantized_elements=0,
        gradient_error=GradientError(relative_l2=0, worst_cosine=1, worst_tensor=None),
        inputs=(),
        outputs=(),
        peak_items=(),
    )


def device(limit: int, *formats: str) -> Capabilities:
    return Capabilities.model_validate(
        {"formats": formats or ("onnx",), "memory_limit_bytes": limit, "threads": 1, "examples": 1}
    )


sizes = st.integers(min_value=1, max_value=1000)
keys = st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from(["onnx", "executorch"])).filter(
    lambda key: key[1] <= key[0]
)
families = st.dictionaries(keys, st.tuples(sizes, st.none() | sizes), min_size=1).map(
    lambda found: [
        member(depth, quantized, planned=planned, measured=measured, format_name=name)
        for (depth, quantized, name), (planned, measured) in found.items()
    ]
)
devices = st.tuples(sizes, st.lists(st.sampled_from(["onnx", "executorch"]), min_size=1, unique=True))


@given(families, devices, st.data())
def test_the_choice_fits_runs_and_is_not_excluded(
    members: list[MemberSpec], described: tuple[int, list[str]], data: st.DataObject
) -> None:
    limit, formats = described
    excluded = data.draw(st.sets(st.sampled_from([each.key for each in members])))
    choice = deepest_that_fits(device(limit, *formats), members, excluded)
    possible = {
        each.key
        for each in members
        if each.key.format in formats and each.key not in excluded and needed_bytes(each) <= limit
    }
    assert (choice.member in possible) if possible else (choice.member is None)
    assert choice.reason
    if choice.member is not None:
        deepest = max(key.depth for key in possible)
        assert choice.member.depth == deepest
        assert choice.member.quantized_layers == min(key.quantized_layers for key in possible if key.depth == deepest)


@given(families, devices, sizes)
def test_more_memory_never_gives_a_shallower_member(
    members: list[MemberSpec], described: tuple[int, list[str]], more: int
) -> None:
    limit, formats = described
    small = deepest_that_fits(device(limit, *formats), members, ())
    large = deepest_that_fits(device(limit + more, *formats), members, ())
    if small.member is not None:
        assert large.member is not None
        assert (large.member.depth, -large.member.quantized_layers) >= (
            small.member.depth,
            -small.member.quantized_layers,
        )


@given(families, st.data())
def test_excluding_what_ran_out_of_memory_leaves_only_members_that_need_less(
    members: list[MemberSpec], data: st.DataObject
) -> None:
    failed = data.draw(st.sampled_from(members))
    excluded = as_demanding_as(failed.key, members)
    assert failed.key in excluded
    for each in members:
        same_format = each.key.format == failed.key.format
        assert (each.key in excluded) == (same_format and needed_bytes(each) >= needed_bytes(failed))


def test_a_measured_peak_is_taken_as_it_is_and_a_planned_one_with_safety() -> None:
    assert needed_bytes(member(1, 0, planned=100, measured=130)) == 130 + RESERVE_BYTES
    assert needed_bytes(member(1, 0, planned=101)) == math.ceil(101 * PLANNED_PEAK_SAFETY) + RESERVE_BYTES


def test_the_format_that_the_device_names_first_wins_among_equals() -> None:
    members = [member(1, 0, planned=1), member(1, 0, planned=1, format_name="executorch")]
    for first, second in (("onnx", "executorch"), ("executorch", "onnx")):
        chosen = deepest_that_fits(device(10 * MEGABYTE, first, second), members, ()).member
        assert chosen is not None
        assert chosen.format == first


def test_when_nothing_fits_the_reason_names_the_smallest_need() -> None:
    members = [member(0, 0, planned=1, measured=12 * MEGABYTE), member(1, 0, planned=1, measured=20 * MEGABYTE)]
    choice = deepest_that_fits(device(5 * MEGABYTE), members, ())
    assert choice.member is None
    assert "d00-q00" in choice.reason
    assert "18.0 MB" in choice.reason  # 12 MB measured and the reserve of 6 MB
    assert "5.0 MB" in choice.reason


def test_a_device_without_a_common_format_is_told_both_sides() -> None:
    choice = deepest_that_fits(device(10, "ort-training"), [member(0, 0, planned=1)], ())
    assert choice.member is None
    assert "onnx" in choice.reason
    assert "ort-training" in choice.reason
