"""Device profiles."""

import pytest

from quadloom_runtime.emulation.profiles import PROFILES, DeviceProfile, profile
from quadloom_runtime.errors import QuadloomError


@pytest.mark.parametrize("each", PROFILES, ids=lambda each: each.name)
def test_a_profile_is_found_by_its_name_and_states_usable_numbers_and_their_source(each: DeviceProfile) -> None:
    assert profile(each.name) is each
    assert each.memory_limit_bytes > 0
    assert each.threads >= 1
    assert each.slowdown >= 1
    for speed in (each.download_bytes_per_s, each.upload_bytes_per_s):
        assert speed is None or speed > 0
    assert each.source.strip()
    assert each.description.strip()


def test_no_two_profiles_share_a_name() -> None:
    assert len({each.name for each in PROFILES}) == len(PROFILES)


def test_the_laptop_is_the_machine_itself() -> None:
    laptop = profile("laptop")
    assert (laptop.slowdown, laptop.download_bytes_per_s, laptop.upload_bytes_per_s) == (1.0, None, None)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(QuadloomError, match="'jetson-tx9'") as refusal:
        profile("jetson-tx9")
    assert all(each.name in refusal.value.remedy for each in PROFILES)
