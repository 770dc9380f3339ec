"""What a device fetches once is told and waited for, but decides nothing: a slow link alone shuts nobody out."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from tests.server.planning.fleets import Scene, context, device, physical_family, physical_scenes

from quadloom_server.planning.registry import PLANNERS
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext

WEIGHTS_BYTES, GRAPH_BYTES = 90_000_000, 300_000


def with_files(given_context: RoundContext) -> RoundContext:
    """The round of a family whose members have files, the deeper the larger."""
    costs = {
        key: replace(cost, own_bytes=GRAPH_BYTES * (1 + key.depth), shared_bytes=WEIGHTS_BYTES, adapter_bytes=1000)
        for key, cost in given_context.references.items()
    }
    return replace(given_context, references=costs)


def linked(each: PlannedDevice, bytes_per_s: float | None) -> PlannedDevice:
    return replace(each, cost=replace(each.cost, download_bytes_per_s=bytes_per_s))


@pytest.mark.parametrize("name", PLANNERS)
@settings(deadline=None, max_examples=15)
@given(scene=physical_scenes(percents=(3,)))
def test_every_planner_decides_as_if_all_files_were_there(name: str, scene: Scene) -> None:
    keys = frozenset(each.key for each in scene.members)
    new = [linked(each, 1e5) for each in scene.devices]
    known = [replace(each, fetched=keys) for each in new]
    for one, other in zip(
        PLANNERS[name](with_files(scene.context(new))).values(),
        PLANNERS[name](with_files(scene.context(known))).values(),
        strict=True,
    ):
        assert (one.member, one.rank) == (other.member, other.rank)
        if one.member is not None and one.expected_s is not None and other.expected_s is not None:
            fetched_s = (WEIGHTS_BYTES + GRAPH_BYTES * (1 + one.member.depth)) / 1e5
            assert one.expected_s == pytest.approx(other.expected_s + fetched_s)


@pytest.mark.parametrize("name", ["deadline", "deadline-of-others", "deadline-ranks"])
def test_a_device_that_has_nothing_yet_on_a_slow_link_takes_part_like_the_others(name: str) -> None:
    fleet = [linked(device("slow-link", 100), 1e5), device("one", 100), device("other", 100)]
    plan = PLANNERS[name](with_files(context(physical_family(3), fleet)))
    assert plan["slow-link"].member is not None
    assert "s of it once, for files" in plan["slow-link"].reason
    assert "for files" not in plan["one"].reason


def test_a_link_that_is_slow_for_what_every_round_moves_still_counts() -> None:
    fleet = [device("slow-link", 100, upload_bytes_per_s=100.0), device("one", 100), device("other", 100)]
    plan = PLANNERS["deadline"](with_files(context(physical_family(3), fleet)))
    assert plan["slow-link"].member is None
