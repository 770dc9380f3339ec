"""What every planner promises, whatever its rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.planning.fleets import Scene, check_legal, context, device, physical_family, wild_scenes

from quadloom_runtime.errors import QuadloomError
from quadloom_server.planning.efficient import feasible
from quadloom_server.planning.registry import DEFAULT_PLANNER, PLANNERS, planner

EVERY = pytest.mark.parametrize("name", PLANNERS)


@EVERY
@settings(deadline=None, max_examples=40)
@given(scene=wild_scenes())
def test_no_device_gets_a_member_above_its_limit_at_a_higher_rank_in_another_format_or_excluded(
    name: str, scene: Scene
) -> None:
    check_legal(scene.context(), planner(name)(scene.context()))


@EVERY
@settings(deadline=None, max_examples=30)
@given(scene=wild_scenes(), data=st.data())
def test_permuting_devices_and_members_permutes_the_plan(name: str, scene: Scene, data: st.DataObject) -> None:
    mixed = Scene(
        data.draw(st.permutations(scene.members)), data.draw(st.permutations(scene.devices)), scene.importance
    )
    assert planner(name)(mixed.context()) == planner(name)(scene.context())


@EVERY
@settings(deadline=None, max_examples=30)
@given(scene=wild_scenes())
def test_somebody_trains_if_anybody_can_train_what_the_planner_gives(name: str, scene: Scene) -> None:
    plan = planner(name)(scene.context())
    if name in ("full-depth", "exclude-weak"):  # these leave out whoever lacks full depth, be it everybody
        return
    able = [each for each in scene.devices if feasible(scene.context(), each)]
    if name == "depth-only":
        able = [
            each
            for each in able
            if any(
                one.key.quantized_layers == 0 and one.key.recompute_percent == 0
                for one in feasible(scene.context(), each)
            )
        ]
    if name == "fedquad":
        able = [each for each in able if any(one.key.recompute_percent == 0 for one in feasible(scene.context(), each))]
    assert not able or any(work.member is not None for work in plan.values())


@EVERY
def test_a_device_that_nothing_fits_sits_out_and_the_reason_names_the_smallest_member(name: str) -> None:
    work = planner(name)(context(physical_family(2), [device("small", 0.5), device("large", 100)]))
    assert work["small"].member is None
    assert "the smallest member, d00-q00, needs 5.0 MB, the device may use 4.5 MB" in work["small"].reason
    assert work["large"].member is not None


@EVERY
def test_no_devices_no_work(name: str) -> None:
    assert planner(name)(context(physical_family(1), [])) == {}


def test_an_unknown_planner_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(QuadloomError, match="no planner is called 'best'") as caught:
        planner("best")
    assert all(name in caught.value.remedy for name in PLANNERS)
    assert DEFAULT_PLANNER in PLANNERS
