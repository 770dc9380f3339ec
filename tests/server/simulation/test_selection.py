"""Who is asked: every device as often as any other, and with `every_class` a bit of each class in every round."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from tests.server.planning.fleets import context, device, physical_family

from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.planning.turns import Held
from quadloom_server.simulation.methods import METHODS
from quadloom_server.simulation.selection import Places, Selection, every_class, every_class_in_turn, uniform

SIZES = {"board": 12, "phone": 16, "laptop": 12}
WANTED = 8


def of_class(name: str, index: int) -> PlannedDevice:
    found = device(f"{name}-{index}", 10)
    return PlannedDevice(found.name, found.capabilities.model_copy(update={"profile": name}))


def three_classes() -> RoundContext:
    devices = [of_class(name, index) for name, size in SIZES.items() for index in range(size)]
    return context(physical_family(1), devices)


def drawn(selection: Selection, rounds: int, *, wanted: int = WANTED) -> list[list[PlannedDevice]]:
    random, given_context = np.random.default_rng(0), three_classes()
    planner = METHODS["full-depth"].planner
    held: dict[str, Held] = {}
    found = []
    for _ in range(rounds):
        found.append(list(selection(given_context, planner, Places(free=wanted, fleet=SIZES, held=held), random)))
        # Rounds of one second each, which all wait for.
        works = Counter(each.capabilities.profile for each in found[-1])
        had = {name: held.get(name, Held()).works + works[name] for name in SIZES}
        held = {name: Held(works=number, works_s=float(number)) for name, number in had.items()}
    return found


@pytest.mark.parametrize("selection", [uniform, every_class, every_class_in_turn])
def test_every_device_is_asked_alike_often(selection: Selection) -> None:
    rounds = 4000
    times = Counter(each.name for found in drawn(selection, rounds) for each in found)
    expected = rounds * WANTED / sum(SIZES.values())
    assert len(times) == sum(SIZES.values())
    assert all(abs(count / expected - 1) < 0.15 for count in times.values())


@pytest.mark.parametrize("selection", [every_class, every_class_in_turn])
def test_each_class_is_asked_as_its_share_says_in_every_round(selection: Selection) -> None:
    for found in drawn(selection, 200):
        counts = Counter(each.capabilities.profile for each in found)
        assert len(found) == WANTED
        for name, size in SIZES.items():
            assert abs(counts[name] - WANTED * size / sum(SIZES.values())) < 1.5
    assert any(len({each.capabilities.profile for each in found}) < 3 for found in drawn(uniform, 200))


@pytest.mark.parametrize("selection", [every_class, every_class_in_turn])
def test_of_fewer_devices_than_wanted_all_are_asked(selection: Selection) -> None:
    assert len(drawn(selection, 1, wanted=100)[0]) == sum(SIZES.values())


def test_a_class_that_holds_less_of_the_places_than_its_share_is_asked_first() -> None:
    held = {"board": Held(works_s=12.0, works=2), "phone": Held(works_s=16.0, works=8), "laptop": Held(open_s=(1.0,))}
    found = every_class_in_turn(
        three_classes(), METHODS["full-depth"].planner, Places(free=2, fleet=SIZES, held=held), np.random.default_rng(0)
    )
    assert [each.capabilities.profile for each in found] == ["laptop", "laptop"]


def test_a_class_that_is_gone_leaves_its_places_to_the_others() -> None:
    everyone, random = three_classes(), np.random.default_rng(0)
    there = [each for each in everyone.devices if each.capabilities.profile != "phone"]
    found = every_class_in_turn(
        replace(everyone, devices=there), METHODS["full-depth"].planner, Places(free=WANTED, fleet=SIZES), random
    )
    assert Counter(each.capabilities.profile for each in found) == {"board": 4, "laptop": 4}
