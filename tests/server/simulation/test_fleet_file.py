"""A fleet file and the devices that it makes."""

from pathlib import Path

import numpy as np
import pytest

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.member_names import find_member
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.simulation.fleet import group_sizes, simulated_devices
from quadloom_server.simulation.fleet_file import SimulatedFleet, load_simulated_fleet

FLEET = """
devices_per_round = 2
[data]
split = "group"
correlation = 0.9
[time]
spread = 0.2
[[group]]
name = "weak"
count = 3
profile = "jetson-tx2"
holds = "1,1"
rank = 2
[[group]]
name = "strong"
count = 1
slowdown = 0.5
memory_limit = "1GB"
link_mbps = 8
"""
EXAMPLES = Path("examples/simulated_fleets")


@pytest.fixture
def write(tmp_path):
    def to_file(text: str) -> Path:
        path = tmp_path / "fleet.toml"
        path.write_text(text)
        return path

    return to_file


def test_devices_are_what_the_file_says(write, family):
    manifest = load_manifest(family)
    devices = simulated_devices(load_simulated_fleet(write(FLEET)), manifest, seed=0)
    assert [each.name for each in devices] == ["weak-1", "weak-2", "weak-3", "strong-1"]
    assert group_sizes(devices) == [3, 1]
    weak, strong = devices[0], devices[3]
    assert weak.memory_limit_bytes == needed_bytes(find_member(manifest, "1,1"))
    assert (weak.rank, weak.assumed_cost.slowdown, weak.assumed_cost.upload_bytes_per_s) == (2, 3.0, 50e6 / 8)
    assert (strong.rank, strong.memory_limit_bytes, strong.assumed_cost.slowdown) == (4, 10**9, 0.5)
    assert strong.assumed_cost.download_bytes_per_s == strong.true_cost.download_bytes_per_s == 1e6


def test_devices_of_a_group_differ_by_the_spread_and_by_the_seed(write, family):
    manifest = load_manifest(family)
    fleet = load_simulated_fleet(write(FLEET.replace("count = 3", "count = 2000")))
    slowdowns = [each.true_cost.slowdown for each in simulated_devices(fleet, manifest, seed=0)[:2000]]
    assert np.std(np.log(slowdowns)) == pytest.approx(0.2, rel=0.1)
    assert np.median(slowdowns) == pytest.approx(3.0, rel=0.05)
    assert slowdowns[0] != simulated_devices(fleet, manifest, seed=1)[0].true_cost.slowdown


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('holds = "1,1"', "", "give either holds or memory_limit"),
        ("slowdown = 0.5", "", "give a profile or a slowdown"),
        ('name = "strong"', 'name = "weak"', "two groups have the same name"),
        ("correlation = 0.9", "correlation = 2", "correlation"),
        ("devices_per_round", "devices_a_round", "devices_per_round"),
        ("rank = 2", "ranks = 2", "ranks"),
        ("[data]", "[data", "TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(write, old, new, words):
    with pytest.raises(QuadloomError, match=words):
        load_simulated_fleet(write(FLEET.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("rank = 2", "rank = 9", "rank 9"), ("1,1", "7,0", "7,0"), ("jetson-tx2", "abacus", "abacus")],
)
def test_what_the_family_or_the_profiles_lack_is_named(write, family, old, new, words):
    fleet = load_simulated_fleet(write(FLEET.replace(old, new, 1)))
    with pytest.raises(QuadloomError, match=words):
        simulated_devices(fleet, load_manifest(family), seed=0)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_example_fleets_can_be_read(path):
    assert isinstance(load_simulated_fleet(path), SimulatedFleet)
