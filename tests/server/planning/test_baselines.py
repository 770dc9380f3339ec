"""The baselines' rules, on a fleet of which the small device holds full depth only with quantization."""

import pytest
from tests.server.planning.fleets import context, device, physical_family

from quadloom_server.planning.registry import PLANNERS

FLEET = [device("tiny", 6), device("small", 25, slowdown=2), device("large", 100)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepest", ["d01-q01-r03", "d03-q01-r03", "d03-q00-r03"]),
        ("full-depth", [None, "d03-q01-r03", "d03-q00-r03"]),
        ("exclude-weak", [None, None, "d03-q00-r03"]),
        ("uniform-depth", ["d01-q01-r03", "d01-q00-r03", "d01-q00-r03"]),
    ],
)
def test_each_device_trains_what_the_rule_says(name: str, expected: list[str | None]) -> None:
    plan = PLANNERS[name](context(physical_family(3), FLEET))
    assert [None if work.member is None else work.member.label for work in plan.values()] == expected


def test_a_device_without_full_depth_is_told_so() -> None:
    plan = PLANNERS["exclude-weak"](context(physical_family(3), FLEET))
    assert plan["small"].reason == "sits out: full depth, unquantized, 3 layers, is not feasible on it"


def test_whose_members_its_planner_does_not_give_is_not_told_that_nothing_fits() -> None:
    """It has the memory for a quantized layer, and for no unquantized one; this family has no head alone."""
    members = [each for each in physical_family(3) if each.key.depth > 0]
    work = PLANNERS["depth-only"](context(members, [device("tiny", 6)]))["tiny"]
    assert work.member is None
    assert work.reason == "sits out: it could train d01-q01-r03, but its planner gives no such member"


def test_depth_only_never_quantizes_and_trains_fewer_layers_instead() -> None:
    fleet = [device("small", 25), device("large", 100)]
    given = context(physical_family(3), fleet)
    depths = {}
    for name in ("depth-only", "fedquad"):
        member = PLANNERS[name](given)["small"].member
        assert member is not None
        depths[name] = (member.depth, member.quantized_layers)
    assert depths == {"depth-only": (2, 0), "fedquad": (3, 1)}


def test_fedquad_trains_at_least_one_layer_where_one_fits() -> None:
    """However slow the device is that all the others wait for."""
    fleet = [device("slow", 100, slowdown=100), device("fast", 100)]
    plan = PLANNERS["fedquad"](context(physical_family(3), fleet, importance={0: 0.0, 1: 0.0, 2: 1.0}))
    assert plan["slow"].member is not None
    assert plan["slow"].member.depth == 1
