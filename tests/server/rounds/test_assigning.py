"""Training settings that no device could follow are refused before one tries."""

import pytest

from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.errors import QuadloomError
from quadloom_server.family import ServedFamily
from quadloom_server.rounds.assigning import check_settings


def test_classes_of_a_language_model_cannot_be_balanced(family: ServedFamily) -> None:
    task = family.manifest.task.model_copy(update={"kind": "causal-lm", "num_labels": None})
    language = family.manifest.model_copy(update={"task": task})
    check_settings(TrainingSettings(class_balance=True), family.manifest)
    check_settings(TrainingSettings(), language)
    with pytest.raises(QuadloomError, match="causal-lm have no classes"):
        check_settings(TrainingSettings(class_balance=True), language)
