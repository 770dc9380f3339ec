"""Training at a lower rank through a graph of a higher one is training a family exported at that rank."""

import numpy as np
import pytest

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.data import encode, load_examples
from quadloom_runtime.engines.rank import RankEngine
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.trainer import train

KEY = MemberKey(depth=2, quantized_layers=0, recompute_percent=3)
SETTINGS = TrainingSettings(learning_rate=1e-2, head_learning_rate=1e-2, max_steps=6, clip_norm=0.5)


@pytest.fixture
def low(family_of_rank):
    return family_of_rank(2)


def start_of(folder):
    """An adapter that has moved: with B at zero A would have no gradient."""
    random = np.random.default_rng(0)
    table = load_manifest(folder).parameters
    found = read_parameters(folder / "adapter/adapter_model.safetensors", table, remedy="")
    return {
        name: (value + 0.2 * random.standard_normal(value.shape)).astype(np.float32) for name, value in found.items()
    }


def test_training_is_that_of_a_family_of_the_low_rank(family, low, inputs):
    manifest, low_manifest = load_manifest(family), load_manifest(low)
    data = encode(load_examples(inputs.train), family / "tokenizer/tokenizer.json", sequence_length=8)
    start, rows = start_of(low), low_manifest.trained_parameters(2)
    engine = RankEngine(open_training_engine(family, manifest, KEY), manifest.parameters, 2)
    found = train(engine, start, rows, data, batch_size=4, settings=SETTINGS)
    expected = train(open_training_engine(low, low_manifest, KEY), start, rows, data, batch_size=4, settings=SETTINGS)
    assert found.update.keys() == expected.update.keys()
    assert found.loss_last == pytest.approx(expected.loss_last, rel=1e-5)
    for name, change in expected.update.items():
        assert np.abs(change).max() > 1e-3, name
        np.testing.assert_allclose(found.update[name], change, rtol=1e-3, atol=2e-5, err_msg=name)


def test_at_the_graphs_own_rank_nothing_changes(family, inputs):
    manifest = load_manifest(family)
    data = encode(load_examples(inputs.train), family / "tokenizer/tokenizer.json", sequence_length=8)
    start, rows = start_of(family), manifest.trained_parameters(2)
    engine = open_training_engine(family, manifest, KEY)
    found, expected = (
        train(each, start, rows, data, batch_size=4, settings=SETTINGS)
        for each in (RankEngine(engine, manifest.parameters, 4), engine)
    )
    for name, change in expected.update.items():
        np.testing.assert_array_equal(found.update[name], change)
