"""Rank as a choice: who has a slow link sends fewer terms of the adapters, and so trains deeper by the same time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.planning.fleets import (
    MEGABYTE,
    RANK,
    Scene,
    best_end,
    check_legal,
    context,
    device,
    gradients,
    gradients_of_layers,
    member,
    physical_family,
    physical_scenes,
    worth,
)

from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.deadline import DeadlineSettings, deadline_planner, is_due
from quadloom_server.planning.efficient import feasible
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.planning.memory_estimate import MemoryEstimate
from quadloom_server.planning.registry import PLANNERS, RANK_SHARES
from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.rounds.knowledge import memory_estimate
from quadloom_server.store.history import OutOfMemory

SETTINGS = DeadlineSettings(rank_shares=RANK_SHARES)
UPDATE_BYTES_PER_LAYER = 10_000
"""What the fleets' reference costs say that a layer sends at the family's rank."""


def linked(each: PlannedDevice, bytes_per_s: float, rank: int | None = None) -> PlannedDevice:
    """With this uplink, and a rank of its own."""
    cost = replace(each.cost, upload_bytes_per_s=bytes_per_s, rank_share=(rank or RANK) / RANK)
    return replace(each, cost=cost, capabilities=each.capabilities.model_copy(update={"rank": rank}))


def options(given_context: RoundContext, each: PlannedDevice) -> list[tuple[int, int, float]]:
    """Depth, rank and seconds of all that it may train; written apart from the code under test."""
    own = each.capabilities.rank or RANK
    ranks = {max(1, round(share * own)) for share in RANK_SHARES}
    found = []
    for one in feasible(given_context, each):
        sent = UPDATE_BYTES_PER_LAYER * (1 + one.depth)
        seconds = {rank: one.time.train_s + sent * rank / RANK / each.cost.upload_bytes_per_s for rank in ranks}
        found += [(one.depth, rank, second) for rank, second in seconds.items()]
    return found


def chosen_by(given_context: RoundContext, each: PlannedDevice, end_s: float) -> tuple[int, int] | None:
    """Depth and rank: deepest first, then the highest rank."""
    in_time = [option[:2] for option in options(given_context, each) if option[2] <= end_s * (1 + 1e-12)]
    return max(in_time, default=None)


@settings(deadline=None, max_examples=50)
@given(
    scene=physical_scenes(most=3, percents=(3,)),
    links=st.lists(st.floats(1e3, 1e6), min_size=3, max_size=3),
    ranks=st.lists(st.sampled_from([None, 4, 1]), min_size=3, max_size=3),
)
def test_no_other_end_of_the_round_is_worth_more(scene: Scene, links: list[float], ranks: list[int | None]) -> None:
    devices = [linked(*each) for each in zip(scene.devices, links, ranks, strict=False)]
    given_context = scene.context(devices)
    able = [each for each in devices if options(given_context, each)]
    if not able:
        return
    due_s, best = best_end(
        able,
        {each.name: [option[2] for option in options(given_context, each)] for each in able},
        lambda end_s: worth(given_context, {each.name: chosen_by(given_context, each, end_s) for each in able}, end_s),
        due=lambda each: is_due(each, SETTINGS),
    )
    plan = deadline_planner(SETTINGS)(given_context)
    found = {
        each.name: None
        if (work := plan[each.name]).member is None
        else (work.member.depth, work.rank or each.capabilities.rank or RANK)
        for each in able
    }
    end_s = max(due_s, *(work.expected_s or 0.0 for work in plan.values()))
    assert worth(given_context, found, end_s) == pytest.approx(best, rel=1e-9)


def test_a_device_with_a_slow_link_trains_as_deep_as_the_others_at_a_lower_rank() -> None:
    fleet = [
        linked(device("slow-link", 100), 20_000),
        linked(device("fast", 100), 1e6),
        linked(device("fast-too", 100), 1e6),
    ]
    given_context = context(physical_family(4), fleet)
    whole, chosen = (PLANNERS[name](given_context) for name in ("deadline", "deadline-ranks"))
    assert chosen["slow-link"].rank == 2
    assert "at rank 2" in chosen["slow-link"].reason
    assert (chosen["fast"].rank, chosen["fast-too"].rank) == (None, None)
    ends = [max(work.expected_s or 0.0 for work in plan.values()) for plan in (whole, chosen)]
    depths = [plan["slow-link"].member.depth if plan["slow-link"].member else -1 for plan in (whole, chosen)]
    assert depths[1] >= depths[0]
    assert ends[1] < ends[0] or depths[1] > depths[0]


def test_where_the_link_costs_nothing_the_rank_is_the_devices_own() -> None:
    fleet = [device("a", 100, slowdown=3), linked(device("b", 40), 1e12, 4), device("c", 70, slowdown=9)]
    given_context = context(physical_family(4), fleet)
    assert PLANNERS["deadline-ranks"](given_context).keys() == {"a", "b", "c"}
    assert all(work.rank is None for work in PLANNERS["deadline-ranks"](given_context).values())


def test_no_device_trains_above_its_own_rank() -> None:
    fleet = [
        linked(device("low", 100), 5_000, 4),
        linked(device("lowest", 100), 5_000, 1),
        linked(device("a", 100), 1e6),
    ]
    plan = PLANNERS["deadline-ranks"](context(physical_family(4), fleet))
    assert (plan["low"].rank, plan["lowest"].rank) == (1, None)


@pytest.mark.parametrize(("name", "value"), [("rank_shares", ()), ("rank_shares", (0.5, 2.0)), ("rank_power", 0.0)])
def test_settings_that_mean_nothing_are_refused(name: str, value: object) -> None:
    with pytest.raises(QuadloomError, match=name):
        DeadlineSettings(**{name: value})  # type: ignore[arg-type]


LAYER = "base_model.model.encoder.layer.0.query"
LORA = {f"{LAYER}.lora_A.weight": (RANK, 100), f"{LAYER}.lora_B.weight": (100, RANK)}
HEADLESS = gradients(LORA)
WITH_LARGE_HEAD = gradients({"base_model.model.classifier.weight": (1000, 100), **LORA})


def test_a_rank_that_would_need_more_memory_than_there_is_is_not_chosen() -> None:
    """A large head: what the graph is given at a lower rank is padded, and all of the head is there twice more."""
    one = member(1, megabytes=20).model_copy(update={"outputs": WITH_LARGE_HEAD})
    needed = {rank: needed_bytes(one, rank=rank) for rank in (RANK, 4, 2)}
    assert needed[RANK] < needed[2] < needed[4]
    alone = linked(device("alone", 100), 35_000)

    def chosen(limit_bytes: int) -> int | None:
        limited = alone.capabilities.model_copy(update={"memory_limit_bytes": limit_bytes})
        work = PLANNERS["deadline-ranks"](context([one], [replace(alone, capabilities=limited)]))["alone"]
        assert work.member == one.key
        return work.rank

    assert [chosen(needed[rank]) for rank in (4, 2, RANK)] == [4, 2, None]


@settings(deadline=None, max_examples=60)
@given(
    megabytes=st.lists(st.sampled_from([1, 5, 20]), min_size=1, max_size=4),
    links=st.lists(st.sampled_from([1e3, 1e4, 1e5]), min_size=1, max_size=3),
    factors=st.lists(st.sampled_from([1.0, 1.5]), min_size=3, max_size=3),
    own=st.sampled_from([None, 4]),
    spare=st.integers(0, 2 * MEGABYTE),
)
def test_whom_its_link_draws_to_a_low_rank_has_the_memory_for_it(
    megabytes: list[int], links: list[float], factors: list[float], own: int | None, spare: int
) -> None:
    """With a head this large every lower rank needs up to 1.6 MB more, which not all of the devices have."""
    members = [
        member(depth, megabytes=size, outputs=gradients_of_layers(depth, width=100, head_width=100_000))
        for depth, size in enumerate(megabytes)
    ]
    fleet = []
    for place, (bytes_per_s, factor) in enumerate(zip(links, factors, strict=False)):
        linked_device = linked(device(f"device-{place}", 100, waited=3), bytes_per_s, own)
        memory = MemoryEstimate({"onnx": factor}, rank=own)
        limit = memory.needed_bytes(members[-1]) + spare
        limited = linked_device.capabilities.model_copy(update={"memory_limit_bytes": limit})
        fleet.append(replace(linked_device, capabilities=limited, memory=memory))
    check_legal(context(members, fleet), PLANNERS["deadline-ranks"](context(members, fleet)))


def test_what_happened_at_a_low_rank_is_held_against_what_it_needs_at_that_rank() -> None:
    one = member(1, megabytes=20).model_copy(update={"outputs": HEADLESS})
    estimate = memory_estimate({one.key: one}, (), {(one.key, 2): 40 * MEGABYTE}, rank=None)
    assert estimate.rank is None
    assert replace(estimate, rank=2).needed_bytes(one) == pytest.approx(40 * MEGABYTE, abs=1)
    assert estimate.needed_bytes(one) > 40 * MEGABYTE, "the family's rank needs more than the low one took"
    failed = memory_estimate({one.key: one}, [OutOfMemory(one.key, 2, 40 * MEGABYTE)], {}, rank=None)
    assert replace(failed, rank=2).needed_bytes(one) > 40 * MEGABYTE
