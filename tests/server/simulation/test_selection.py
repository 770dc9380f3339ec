"""Who is asked: every device as often as any other, and with `every_class` a bit of each class in every round."""

from collections import Counter

import numpy as np
import pytest
from tests.server.planning.fleets import context, device, physical_family

from quadloom_server.planning.round_plan import PlannedDevice, RoundContext
from quadloom_server.simulation.methods import METHODS
from quadloom_server.simulation.selection import Selection, every_class, uniform

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
    return [list(selection(given_context, planner, wanted, random)) for _ in range(rounds)]


@pytest.mark.parametrize("selection", [uniform, every_class])
def test_every_device_is_asked_alike_often(selection: Selection) -> None:
    rounds = 4000
    times = Counter(each.name for found in drawn(selection, rounds) for each in found)
    expected = rounds * WANTED / sum(SIZES.values())
    assert len(times) == sum(SIZES.values())
    assert all(abs(count / expected - 1) < 0.15 for count in times.values())


def test_each_class_is_asked_as_its_share_says_in_every_round() -> None:
    for found in drawn(every_class, 200):
        counts = Counter(each.capabilities.profile for each in found)
        assert len(found) == WANTED
        for name, size in SIZES.items():
            assert abs(counts[name] - WANTED * size / sum(SIZES.values())) < 1.5
    assert any(len({each.capabilities.profile for each in found}) < 3 for found in drawn(uniform, 200))


def test_of_fewer_devices_than_wanted_all_are_asked() -> None:
    assert len(drawn(every_class, 1, wanted=100)[0]) == sum(SIZES.values())
