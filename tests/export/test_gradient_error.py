"""The stated gradient error, against numbers worked out by hand; the calibration against the independent reference."""

import numpy as np
import pytest
import torch
from tests.export.conftest import as_batch

from quadloom_export.calibration import SENTENCES, calibrate, eager_gradients, gradient_error
from quadloom_runtime.contract.manifest import ParameterSpec

TABLE = (
    ParameterSpec(name="a", shape=(2,), layer=0, rank=1),
    ParameterSpec(name="b", shape=(2,), layer=1, rank=1),
    ParameterSpec(name="head", shape=(2,), layer="head", rank=None),
)


def vectors(**values):
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def test_relative_error_and_worst_cosine_leave_the_head_out():
    reference = vectors(a=[3, 0], b=[0, 4], head=[100, 0])
    measured = vectors(a=[3, 0], b=[3, 4], head=[0, 0])
    error = gradient_error(reference, measured, TABLE)
    assert error.relative_l2 == pytest.approx(3 / 5)
    assert error.worst_cosine == pytest.approx(16 / 20)
    assert error.worst_tensor == "b"


def test_only_trained_tensors_count():
    reference = vectors(a=[3, 0], b=[0, 4], head=[1, 0])
    error = gradient_error(reference, vectors(b=[0, 2], head=[1, 0]), TABLE[1:])
    assert error.relative_l2 == pytest.approx(0.5)
    assert error.worst_cosine == pytest.approx(1.0)


def test_a_member_that_trains_the_head_alone_has_no_error():
    error = gradient_error(vectors(head=[1, 0]), vectors(head=[0, 1]), TABLE[2:])
    assert (error.relative_l2, error.worst_cosine, error.worst_tensor) == (0.0, 1.0, None)


def test_reference_gradients_are_those_of_peft(tiny):
    """The exporter judges members by its own eager gradients; they must be PEFT's."""
    parameters, batch = tiny.parameters(), tiny.batch(5)
    batch.pop("token_type_ids", None)
    found = eager_gradients(tiny.model, parameters, as_batch(batch))
    expected = tiny.eager(parameters, batch).gradients
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6 * np.abs(expected[name]).max())


def test_calibration_is_the_same_every_time_and_gives_every_tensor_a_gradient(bert, word_pieces):
    word_pieces.enable_truncation(16)
    word_pieces.enable_padding(length=16)
    first, second = (calibrate(bert.model, word_pieces, batch_size=4, num_labels=2) for _ in range(2))
    assert first.batch.input_ids.shape == (4, 16)
    assert set(first.batch.labels) == {0, 1}
    for name, gradient in first.gradients.items():
        assert gradient.any(), f"{name} would say nothing about a member"
        np.testing.assert_array_equal(gradient, second.gradients[name])


def test_calibration_leaves_the_adapter_as_it_was(bert, word_pieces):
    before = {name: value.clone() for name, value in bert.model.trainable.items()}
    word_pieces.enable_padding()
    calibrate(bert.model, word_pieces, batch_size=2, num_labels=2)
    assert all(torch.equal(value, before[name]) for name, value in bert.model.trainable.items())


def test_sentences_suffice_for_a_default_batch():
    assert len(set(SENTENCES)) >= 16
