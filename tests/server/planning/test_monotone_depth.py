"""More memory or more speed never gives a device a shallower member, all else equal: where it holds, and how far."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.planning.fleets import MEGABYTE, Scene, context, device, physical_family, physical_scenes

from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner
from quadloom_server.planning.depth_only import unquantized_members
from quadloom_server.planning.fedquad import FEDQUAD_SETTINGS, their_members
from quadloom_server.planning.registry import PLANNERS, RANK_SHARES
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext, RoundPlan, RoundPlanner

OTHERS = replace(FEDQUAD_SETTINGS, voters="others")
HOLDS: dict[str, RoundPlanner] = {
    "deadline-of-others": PLANNERS["deadline-of-others"],
    "all-in-every-round": deadline_planner(DeadlineSettings(included_every_rounds=1, voters="others")),
    "ranks-of-others": deadline_planner(DeadlineSettings(rank_shares=RANK_SHARES, voters="others")),
    "fedquad-of-others": deadline_planner(OTHERS, their_members),
    "depth-only-of-others": deadline_planner(OTHERS, unquantized_members),
    **{name: PLANNERS[name] for name in ("deepest", "exclude-weak", "full-depth", "uniform-depth")},
}
BY_THE_FLEET = [name for name in PLANNERS if name not in HOLDS]


@dataclass(frozen=True)
class Improvement:
    """Of one device: how many times as fast it computes and sends, and how much more memory it has."""

    faster: float = 1.0
    faster_link: float = 1.0
    more_megabytes: float = 0.0

    def of(self, each: PlannedDevice) -> PlannedDevice:
        limit = each.capabilities.memory_limit_bytes + int(self.more_megabytes * MEGABYTE)
        upload = each.cost.upload_bytes_per_s
        cost = replace(
            each.cost,
            slowdown=each.cost.slowdown / self.faster,
            upload_bytes_per_s=None if upload is None else upload * self.faster_link,
        )
        capabilities = each.capabilities.model_copy(update={"memory_limit_bytes": limit})
        return replace(each, cost=cost, capabilities=capabilities)


def with_first_improved(scene: Scene, improvement: Improvement) -> RoundContext:
    first, *rest = scene.devices
    return scene.context([improvement.of(first), *rest])


def depth(plan: RoundPlan, name: str) -> int:
    member = plan[name].member
    return -1 if member is None else member.depth


def round_s(plan: RoundPlan) -> float:
    return max((work.expected_s or 0.0 for work in plan.values()), default=0.0)


improvements = st.sampled_from(
    [
        Improvement(faster=1.3),
        Improvement(faster=3),
        Improvement(faster=10),
        Improvement(faster_link=3),
        Improvement(faster_link=100),
        Improvement(more_megabytes=3),
        Improvement(more_megabytes=30),
        Improvement(faster=2, faster_link=2, more_megabytes=8),
    ]
)


@pytest.mark.parametrize("name", HOLDS)
@settings(deadline=None, max_examples=40)
@given(scene=physical_scenes(), improvement=improvements)
def test_more_speed_or_memory_or_a_faster_link_never_gives_a_shallower_member(
    name: str, scene: Scene, improvement: Improvement
) -> None:
    before, after = (HOLDS[name](each) for each in (scene.context(), with_first_improved(scene, improvement)))
    assert depth(after, "device-0") >= depth(before, "device-0")


def between(least: float, most: float) -> st.SearchStrategy[float]:
    """Any of seventeen alike, where `st.floats` draws mostly the ends."""
    return st.sampled_from([least + (most - least) * step / 16 for step in range(17)])


@st.composite
def that_may_leave_the_other_out(draw: st.DrawFn) -> tuple[Scene, Improvement]:
    """Two that are nearly alike: once the first is better, a round without the other may be worth more."""
    slowdown, bytes_per_s = draw(between(1.5, 4)), draw(st.sampled_from([None, 3e3, 1e4, 3e4]))
    of_other = slowdown * draw(between(1, 2))
    devices = [
        device(f"device-{place}", 100, slowdown=each, upload_bytes_per_s=bytes_per_s)
        for place, each in enumerate((slowdown, of_other))
    ]
    steeper = draw(between(2, 8))
    improvement = Improvement(faster=draw(between(1, 2)), faster_link=draw(between(1, 3)))
    return Scene(physical_family(3), devices, {layer: 0.1 * steeper**layer for layer in range(3)}), improvement


@st.composite
def that_its_link_holds_up(draw: st.DrawFn) -> tuple[Scene, Improvement]:
    """A second layer costs the first one little more time, until it computes faster: then it sends twice as long."""
    devices = [
        device(
            "device-0",
            100,
            slowdown=draw(between(2, 8)),
            examples=50,
            waited=3,
            upload_bytes_per_s=draw(between(2e3, 1e4)),
        ),
        device("device-1", 100, examples=2, waited=3),
    ]
    improvement = Improvement(faster=draw(between(2, 8)), faster_link=draw(st.sampled_from([1.0, 1.3])))
    return Scene(physical_family(2), devices, {0: draw(between(0.4, 0.5)), 1: 1.0}), improvement


@pytest.mark.parametrize("name", BY_THE_FLEET)
def test_by_the_fleets_deadline_depth_is_lost_only_to_a_shorter_round(name: str) -> None:
    lost = 0

    @settings(deadline=None, max_examples=300, derandomize=True)  # the counter below is of draws
    @given(drawn=that_may_leave_the_other_out() | that_its_link_holds_up())
    def depth_is_lost_only_to_a_shorter_round(drawn: tuple[Scene, Improvement]) -> None:
        nonlocal lost
        scene, improvement = drawn
        before, after = (PLANNERS[name](each) for each in (scene.context(), with_first_improved(scene, improvement)))
        if depth(after, "device-0") < depth(before, "device-0"):
            lost += 1
            assert round_s(after) < round_s(before)

    depth_is_lost_only_to_a_shorter_round()
    # If it were none, nothing would have been asserted.
    assert lost > 0


def test_by_the_fleets_deadline_a_faster_device_can_lose_depth() -> None:
    """Why the deadline of the others exists: one device gets 1.3 times faster, and a shorter round is worth more."""
    members, importance = physical_family(3), {0: 0.1, 1: 1.0, 2: 3.0}
    depths = {}
    for name in ("deadline", "deadline-of-others"):
        for faster in (1.0, 1.3):
            fleet = [device("one", 100, slowdown=2 / faster, waited=3), device("other", 100, slowdown=3, waited=3)]
            depths[name, faster] = depth(PLANNERS[name](context(members, fleet, importance=importance)), "one")
    assert depths["deadline", 1.3] < depths["deadline", 1.0]
    assert depths["deadline-of-others", 1.3] >= depths["deadline-of-others", 1.0]
