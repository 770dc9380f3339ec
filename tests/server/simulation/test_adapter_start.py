"""Where a run starts: every seed with an adapter of its own, or all with the family's."""

import numpy as np
import pytest
from tests.server.simulation.conftest import SETTINGS, two_groups

from quadloom_runtime.adapter_file import read_parameters
from quadloom_server.simulation.adapter_start import random_start


@pytest.fixture
def started(opened):
    """``started(seed=1)``: the first parameters of a run."""
    return lambda **changes: opened(two_groups(), settings=SETTINGS.model_copy(update=changes))[1].parameters


def test_a_start_is_drawn_as_peft_draws_it(opened):
    world, state = opened(two_groups())
    table = world.manifest.parameters
    start = random_start(state.parameters, table, np.random.default_rng(0))
    for row in table:
        assert start[row.name].dtype == np.float32
        if ".lora_A." in row.name:
            bound = row.shape[1] ** -0.5
            assert 0.9 * bound < np.abs(start[row.name]).max() <= bound
            assert start[row.name].std() == pytest.approx(bound / 3**0.5, rel=0.15)
        elif ".lora_B." in row.name:
            assert not start[row.name].any()
        else:
            np.testing.assert_array_equal(start[row.name], state.parameters[row.name])


def test_each_seed_has_its_own_start_and_the_same_again(started):
    first, again, other = started(seed=1), started(seed=1), started(seed=2)
    drawn = [name for name in first if ".lora_A." in name]
    assert drawn
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in drawn)


def test_the_familys_own_adapter_is_the_start_of_every_seed_where_it_is_asked_for(started, inputs, opened):
    table = opened(two_groups())[0].manifest.parameters
    own = read_parameters(inputs.family / "adapter/adapter_model.safetensors", table, remedy="")
    for seed in (1, 2):
        found = started(seed=seed, start="family")
        assert all(np.array_equal(found[name], value) for name, value in own.items())


def test_whatever_is_drawn_computes_the_same_before_training(opened):
    found = {
        world.evaluate(state.parameters)
        for world, state in (
            opened(two_groups(), settings=SETTINGS.model_copy(update={"seed": each})) for each in (1, 2)
        )
    }
    assert len(found) == 1
