"""The planner's promises: what fits, the deepest of it, and words for why."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.contract.manifest import BlobReference, GradientError, MemberKey, MemberSpec, TensorSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.memory_estimate import MemoryEstimate
from quadloom_server.planning.plan import (
    COPIES_IN_TRAINING,
    PLANNED_PEAK_SAFETY,
    QUANTIZATION_OPERATIONS,
    RESERVE_BYTES,
    as_demanding_as,
    deepest_that_fits,
    needed_bytes,
)

MEGABYTE = 1_000_000


def member(
    depth: int,
    quantized: int,
    *,
    planned: int,
    percent: int = 0,
    measured: int | None = None,
    step_s: float | None = None,
    operations: int = 1000,
    error: float = 0.0,
    format_name: str = "onnx",
) -> MemberSpec:
    key = MemberKey.model_validate(
        {"depth": depth, "quantized_layers": quantized, "recompute_percent": percent, "format": format_name}
    )
    return MemberSpec(
        key=key,
        graph=BlobReference(path=f"{format_name}/{key.stem}", sha256="0" * 64, size_bytes=1, media_type="x/y"),
        planned_peak_bytes=planned,
        measured_peak_bytes=measured,
        measured_step_s=step_s,
        stash_bytes_before=0,
        stash_bytes_after=0,
        weight_bytes=0,
        forward_operations=operations,
        backward_operations=operations * (100 + percent) // 100,
        quantized_elements=quantized,
        gradient_error=GradientError(relative_l2=error, worst_cosine=1, worst_tensor=None),
        inputs=(),
        outputs=(),
        peak_items=(),
    )


def device(limit: int, *formats: str) -> Capabilities:
    return Capabilities.model_validate(
        {"formats": formats or ("onnx",), "memory_limit_bytes": limit, "threads": 1, "examples": 1}
    )


sizes = st.integers(min_value=1, max_value=1000)
keys = st.tuples(
    st.integers(0, 6), st.integers(0, 6), st.sampled_from([0, 3, 30]), st.sampled_from(["onnx", "executorch"])
).filter(lambda key: key[1] <= key[0])
times = st.none() | st.sampled_from([0.5, 1.0, 2.0])
figures = st.tuples(sizes, st.none() | sizes, times, st.sampled_from([0.0, 2e-7, 0.01]))
families = st.dictionaries(keys, figures, min_size=1).map(
    lambda found: [
        member(
            depth,
            quantized,
            percent=percent,
            planned=planned,
            measured=measured,
            step_s=step_s,
            error=error,
            format_name=name,
        )
        for (depth, quantized, percent, name), (planned, measured, step_s, error) in found.items()
    ]
)
devices = st.tuples(
    sizes.map(RESERVE_BYTES.__add__), st.lists(st.sampled_from(["onnx", "executorch"]), min_size=1, unique=True)
)


@given(families, devices, st.data())
def test_the_choice_fits_runs_and_is_not_excluded(
    members: list[MemberSpec], described: tuple[int, list[str]], data: st.DataObject
) -> None:
    limit, formats = described
    excluded = data.draw(st.sets(st.sampled_from([each.key for each in members])))
    choice = deepest_that_fits(device(limit, *formats), members, excluded)
    possible = {
        each.key: each
        for each in members
        if each.key.format in formats and each.key not in excluded and needed_bytes(each) <= limit
    }
    assert (choice.member in possible) if possible else (choice.member is None)
    assert choice.reason
    if choice.member is not None:
        assert choice.member.depth == max(key.depth for key in possible)


@given(families, devices)
def test_no_other_member_of_that_depth_that_fits_is_faster(
    members: list[MemberSpec], described: tuple[int, list[str]]
) -> None:
    limit, formats = described
    chosen = deepest_that_fits(device(limit, *formats), members, ()).member
    rivals = [
        each
        for each in members
        if each.key.format in formats and needed_bytes(each) <= limit and chosen and each.key.depth == chosen.depth
    ]
    if all(each.measured_step_s is not None for each in rivals):
        seconds = {each.key: each.measured_step_s or 0.0 for each in rivals}
        assert all(seconds[chosen] <= other for other in seconds.values() if chosen)
    else:
        operations = {
            each.key: each.forward_operations
            + each.backward_operations
            + QUANTIZATION_OPERATIONS * each.quantized_elements
            for each in rivals
        }
        assert all(operations[chosen] <= other for other in operations.values() if chosen)


@given(families, devices, sizes)
def test_more_memory_never_gives_a_shallower_member(
    members: list[MemberSpec], described: tuple[int, list[str]], more: int
) -> None:
    limit, formats = described
    small = deepest_that_fits(device(limit, *formats), members, ())
    large = deepest_that_fits(device(limit + more, *formats), members, ())
    if small.member is not None:
        assert large.member is not None
        assert large.member.depth >= small.member.depth


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


def test_a_member_needs_more_the_more_it_trains() -> None:
    graph = member(1, 0, planned=100, measured=130)
    outputs = [
        TensorSpec(name=name, dtype="float32", shape=shape)
        for name, shape in (("loss", ()), ("gradient.a", (8, 384)), ("gradient.b", (384, 8)))
    ]
    trains = graph.model_copy(update={"outputs": tuple(outputs)})
    assert needed_bytes(trains) - needed_bytes(graph) == COPIES_IN_TRAINING * 4 * 2 * 8 * 384


def test_at_a_lower_rank_a_member_needs_less_but_for_what_the_graph_takes_and_gives() -> None:
    shapes = {"loss": (), "gradient.x.lora_A.weight": (8, 100), "gradient.x.lora_B.weight": (50, 8), "gradient.h": (3,)}
    outputs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
    trains = member(1, 0, planned=100, measured=130).model_copy(update={"outputs": outputs})
    whole, low = 8 * (100 + 50) + 3, 2 * (100 + 50) + 3
    assert needed_bytes(trains, rank=2) == 130 + RESERVE_BYTES + 4 * (COPIES_IN_TRAINING * low + 2 * whole)
    assert needed_bytes(trains, rank=8) == needed_bytes(trains)
    limit = needed_bytes(trains, rank=2)
    thin = device(limit).model_copy(update={"rank": 2})
    assert (deepest_that_fits(thin, [trains], ()).member, deepest_that_fits(device(limit), [trains], ()).member) == (
        trains.key,
        None,
    )
    assert MemoryEstimate(rank=2).needed_bytes(trains) == limit


def test_the_format_that_the_device_names_first_wins_among_equals() -> None:
    members = [member(1, 0, planned=1), member(1, 0, planned=1, format_name="executorch")]
    for first, second in (("onnx", "executorch"), ("executorch", "onnx")):
        chosen = deepest_that_fits(device(10 * MEGABYTE, first, second), members, ()).member
        assert chosen is not None
        assert chosen.format == first


def two_budgets() -> list[MemberSpec]:
    """Depth 2 at budgets of 3 and 30 %: needs 46, 26, 36 and 18 MB, and takes ever longer."""
    points = {(0, 3): (40, 1.0), (2, 3): (20, 1.1), (0, 30): (30, 1.2), (2, 30): (12, 1.3)}
    shallow = member(1, 0, planned=1, percent=3, measured=1 * MEGABYTE)
    return [shallow] + [
        member(2, quantized, planned=1, percent=percent, measured=megabytes * MEGABYTE, step_s=step_s)
        for (quantized, percent), (megabytes, step_s) in points.items()
    ]


@pytest.mark.parametrize(
    ("limit", "expected", "reason"),
    [
        (44, "d02-q00-r03", "deepest that fits, then fastest: "),
        (34, "d02-q02-r03", "deepest that fits, then fastest: "),
        (23, "d02-q02-r30", "deepest that fits: "),
        (15, "d01-q00-r03", "deepest that fits: "),
    ],
)
def test_a_device_recomputes_more_only_if_it_must(limit: int, expected: str, reason: str) -> None:
    choice = deepest_that_fits(device(limit * MEGABYTE), two_budgets(), ())
    assert choice.member is not None
    assert choice.member.label == expected
    assert choice.reason.startswith(reason)


def test_without_measurements_a_step_takes_its_multiply_adds_and_its_quantization() -> None:
    repeats = member(1, 0, planned=1, percent=10, operations=1000)  # 100 more
    quantizes = member(1, 1, planned=1, operations=1000)
    assert QUANTIZATION_OPERATIONS < 100
    for members in ([repeats, quantizes], [quantizes, repeats]):
        assert deepest_that_fits(device(10 * MEGABYTE), members, ()).member == quantizes.key


def test_one_member_without_a_measured_time_has_all_of_them_estimated() -> None:
    slow = member(1, 0, planned=1, step_s=9.0, operations=1000)
    unmeasured = member(1, 0, planned=1, percent=30, operations=1000)
    assert deepest_that_fits(device(10 * MEGABYTE), [unmeasured, slow], ()).member == slow.key


def test_of_equally_fast_members_the_most_precise_is_chosen_whatever_the_rounding_of_its_format() -> None:
    rough = member(2, 0, planned=1, percent=3, step_s=1.0, error=0.02)
    close = member(2, 0, planned=1, percent=4, step_s=1.0, error=0.01)
    choice = deepest_that_fits(device(10 * MEGABYTE), [rough, close], ())
    assert choice.member == close.key
    assert choice.reason.startswith("deepest that fits, then most precise: ")
    rounded = member(2, 0, planned=1, percent=4, step_s=1.0, error=0.01 - 1e-7, format_name="executorch")
    choice = deepest_that_fits(device(10 * MEGABYTE, "onnx", "executorch"), [rounded, close], ())
    assert choice.member == close.key
    assert choice.reason.startswith("deepest that fits, then format named first: ")


def test_when_nothing_fits_the_reason_names_the_smallest_need() -> None:
    members = [member(0, 0, planned=1, measured=12 * MEGABYTE), member(1, 0, planned=1, measured=20 * MEGABYTE)]
    choice = deepest_that_fits(device(5 * MEGABYTE), members, ())
    assert choice.member is None
    assert "d00-q00" in choice.reason
    assert "16.0 MB" in choice.reason  # 12 MB measured and the reserve of 4 MB
    assert "5.0 MB" in choice.reason


def test_a_device_without_a_common_format_is_told_both_sides() -> None:
    choice = deepest_that_fits(device(10, "ort-training"), [member(0, 0, planned=1)], ())
    assert choice.member is None
    assert "onnx" in choice.reason
    assert "ort-training" in choice.reason
