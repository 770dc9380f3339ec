"""What a member needs, from its measured or planned peak, and which members need as much."""

import math

from hypothesis import given
from hypothesis import strategies as st
from tests.server.planning.fleets import member

from quadloom_runtime.contract.manifest import MemberSpec, TensorSpec
from quadloom_server.planning.member_memory import (
    COPIES_IN_TRAINING,
    PLANNED_PEAK_SAFETY,
    RESERVE_BYTES,
    as_demanding_as,
    needed_bytes,
)
from quadloom_server.planning.memory_estimate import MemoryEstimate

families = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["onnx", "executorch"])).filter(
        lambda key: key[1] <= key[0]
    ),
    st.integers(1, 100),
    min_size=1,
).map(
    lambda found: [
        member(depth, quantized, megabytes=megabytes, format_name=name)
        for (depth, quantized, name), megabytes in found.items()
    ]
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
        as_large = (each.measured_peak_bytes or 0) >= (failed.measured_peak_bytes or 0)
        assert (each.key in excluded) == (same_format and as_large)


def test_a_measured_peak_is_taken_as_it_is_and_a_planned_one_with_safety() -> None:
    measured = member(1).model_copy(update={"planned_peak_bytes": 100, "measured_peak_bytes": 130})
    assert needed_bytes(measured) == 130 + RESERVE_BYTES
    unmeasured = member(1).model_copy(update={"planned_peak_bytes": 101, "measured_peak_bytes": None})
    assert needed_bytes(unmeasured) == math.ceil(101 * PLANNED_PEAK_SAFETY) + RESERVE_BYTES


def test_a_member_needs_more_the_more_it_trains() -> None:
    graph = member(1)
    outputs = [
        TensorSpec(name=name, dtype="float32", shape=shape)
        for name, shape in (("loss", ()), ("gradient.a", (8, 384)), ("gradient.b", (384, 8)))
    ]
    trains = graph.model_copy(update={"outputs": tuple(outputs)})
    assert needed_bytes(trains) - needed_bytes(graph) == COPIES_IN_TRAINING * 4 * 2 * 8 * 384


def test_at_a_lower_rank_a_member_needs_less_but_for_what_the_graph_takes_and_gives() -> None:
    shapes = {"loss": (), "gradient.x.lora_A.weight": (8, 100), "gradient.x.lora_B.weight": (50, 8), "gradient.h": (3,)}
    outputs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
    trains = member(1, megabytes=1).model_copy(update={"outputs": outputs})
    whole, low = 8 * (100 + 50) + 3, 2 * (100 + 50) + 3
    assert needed_bytes(trains, rank=2) == 1_000_000 + RESERVE_BYTES + 4 * (COPIES_IN_TRAINING * low + 2 * whole)
    assert needed_bytes(trains, rank=8) == needed_bytes(trains) > needed_bytes(trains, rank=2)
    assert MemoryEstimate(rank=2).needed_bytes(trains) == needed_bytes(trains, rank=2)
