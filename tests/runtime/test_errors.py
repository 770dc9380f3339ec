"""An error stays itself on its way from one process to another."""

import pickle

import pytest

from quadloom_runtime.errors import MissingExtraError, QuadloomError, StepOutOfMemoryError


@pytest.mark.parametrize(
    "error",
    [
        QuadloomError("epochs is 0", remedy="use 1 or more"),
        MissingExtraError(package="onnxruntime", extra="onnx"),
        StepOutOfMemoryError(member="d06-q00", limit_bytes=1_000_000, detail="refused"),
    ],
)
def test_a_pickled_error_is_the_same(error: QuadloomError):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
