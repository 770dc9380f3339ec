"""One device's work is `train` on its rows, with the engine that its work asks for."""

import math

import numpy as np
import pytest
from tests.server.simulation.conftest import SETTINGS, two_groups

from quadloom_runtime.data import encode, load_examples
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.trainer import train
from quadloom_server.simulation import local_training
from quadloom_server.simulation.departures import departures
from quadloom_server.simulation.kept_layers_engine import KeptLayersEngine
from quadloom_server.simulation.local_training import LocalWork, moved_rows
from quadloom_server.simulation.logit_adjustment import LogitAdjustedEngine, log_prior


@pytest.fixture
def opened_work(opened):
    """A world, its parameters, and the work of one device."""

    def make(method="full-depth", **settings):
        world, state = opened(two_groups(per_round=1), method, SETTINGS.model_copy(update=settings))
        (departure,) = departures(world, state)[1]
        return world, state.parameters, departure.work

    return make


def data_of(inputs, work: LocalWork):
    examples = load_examples(inputs.train)
    own = [examples[row] for row in work.rows]
    return encode(own, inputs.family / "tokenizer/tokenizer.json", sequence_length=8)


def assert_trained_by(engine, found, world, parameters, work, data):
    rows = moved_rows(world.manifest, work)
    expected = train(engine, parameters, rows, data, batch_size=4, settings=work.settings)
    assert found.norms == expected.gradient_norms  # as a device reports them
    assert found.trained.keys() == expected.update.keys()
    for name, change in expected.update.items():
        np.testing.assert_array_equal(found.trained[name], parameters[name] + change)


def test_layers_that_are_not_kept_stand_still_while_the_others_train(opened_work, inputs):
    world, parameters, work = opened_work("importance-layers", adjust_logits=False)
    work = LocalWork(**{**vars(work), "layers": frozenset({0}), "member": world.manifest.members[-1].key})
    found = world.train(work, parameters)
    names = {row.name for row in moved_rows(world.manifest, work)}
    engine = KeptLayersEngine(open_training_engine(inputs.family, world.manifest, work.member), names)
    assert_trained_by(engine, found, world, parameters, work, data_of(inputs, work))


def test_label_shares_are_taken_out_of_the_loss_if_asked(opened_work, inputs):
    world, parameters, work = opened_work(adjust_logits=True)
    found = world.train(work, parameters)
    data = data_of(inputs, work)
    engine = open_training_engine(inputs.family, world.manifest, work.member)
    bias = "base_model.model.classifier.bias"
    adjusted = LogitAdjustedEngine(engine, bias, log_prior(data.labels, num_labels=2))
    assert_trained_by(adjusted, found, world, parameters, work, data)


def test_of_balanced_classes_no_label_share_is_left_to_take_out(opened_work, inputs):
    world, parameters, work = opened_work("fedquad-balanced", adjust_logits=True)
    assert work.settings.class_balance
    work = LocalWork(**{**vars(work), "rows": work.rows[:20]})
    found = world.train(work, parameters)
    engine = open_training_engine(inputs.family, world.manifest, work.member)
    bias = "base_model.model.classifier.bias"
    alike = LogitAdjustedEngine(engine, bias, np.full(2, np.log(0.5), np.float32))
    assert_trained_by(alike, found, world, parameters, work, data_of(inputs, work))


def test_the_order_of_the_data_differs_from_device_to_device_and_round_to_round(opened):
    world, state = opened(two_groups(per_round=4))
    seeds = [each.work.settings.seed for each in departures(world, state)[1]]
    later = state.facts.model_copy(
        update={"records": (*state.facts.records, state.facts.records[0].model_copy(update={"index": 1}))}
    )
    seeds += [each.work.settings.seed for each in departures(world, type(state)(later, state.parameters))[1]]
    assert len(set(seeds)) == 8


def test_a_device_with_little_data_passes_over_it_until_its_steps_are_made(opened_work):
    world, parameters, work = opened_work()
    work = LocalWork(**{**vars(work), "rows": work.rows[:5]})
    assert world.train(work, parameters).examples == 5
    few = LocalWork(**{**vars(work), "rows": work.rows[:3]})
    norms = world.train(few, parameters).norms
    assert set(norms) == {0, 1}
    assert all(math.isfinite(norm) and norm > 0 for norm in norms.values())


def test_an_engine_is_opened_once_for_all_devices(opened, monkeypatch):
    calls = []
    real = local_training.open_training_engine
    monkeypatch.setattr(
        local_training, "open_training_engine", lambda *words, **options: calls.append(1) or real(*words, **options)
    )
    world, state = opened(two_groups(per_round=4))
    for each in departures(world, state)[1]:
        world.train(each.work, state.parameters)
    assert len(calls) == 1
