"""The trainer with a closed-form engine (softmax regression in numpy), against the same training in torch."""

import weakref
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.data import EncodedData, batches
from quadloom_runtime.engines.engine import (
    IGNORED_LABEL,
    Batch,
    EvaluationResult,
    FloatArray,
    StepResult,
)
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.trainer import Checkpoint, epoch_rows, evaluate, planned_steps, train

FEATURES, LABELS = 5, 3
TABLE = (
    ParameterSpec(name="lora", shape=(FEATURES, FEATURES), layer=0, rank=2),
    ParameterSpec(name="head", shape=(LABELS, FEATURES), layer="head", rank=None),
)


class SoftmaxRegression:
    """``softmax(x (1 + lora) head^T)`` where x are the token ids; averages over the rows that count."""

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        features, counted, examples = batch.input_ids.astype(np.float32), batch.labels != IGNORED_LABEL, batch.examples
        hidden = features + features @ parameters["lora"]
        logits = hidden @ parameters["head"].T
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = exponents / exponents.sum(1, keepdims=True)
        wanted = np.eye(LABELS, dtype=np.float32)[np.where(counted, batch.labels, 0)]
        error = (probabilities - wanted) * counted[:, None] / examples
        loss = -(np.log((probabilities * wanted).sum(1)) * counted).sum() / examples
        gradients = {"lora": features.T @ (error @ parameters["head"]), "head": error.T @ hidden}
        correct = int(((logits.argmax(1) == batch.labels) & counted).sum())
        return StepResult(float(loss), correct, examples, {k: v.astype(np.float32) for k, v in gradients.items()})

    def evaluate(self, parameters: Mapping[str, FloatArray], batch: Batch) -> EvaluationResult:
        result = self.step(parameters, batch)
        return EvaluationResult(result.loss, result.correct, result.examples, np.zeros((1, LABELS), np.float32))


def random_data(examples: int) -> EncodedData:
    random = np.random.default_rng(0)
    features = random.integers(-2, 3, (examples, FEATURES))
    return EncodedData(features, np.ones_like(features), np.zeros_like(features), random.integers(0, LABELS, examples))


def random_parameters() -> dict[str, FloatArray]:
    random = np.random.default_rng(1)
    return {row.name: (0.3 * random.standard_normal(row.shape)).astype(np.float32) for row in TABLE}


def torch_training(data: EncodedData, settings: TrainingSettings, *, batch_size: int) -> dict[str, FloatArray]:
    """The same training written with torch's own parts; the loss is the mean over all rows of an optimizer step."""
    start = random_parameters()
    tensors = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    groups = [
        {"params": [tensors["lora"]], "lr": settings.learning_rate},
        {"params": [tensors["head"]], "lr": settings.head_learning_rate},
    ]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.SGD
    optimizer = kind(groups, weight_decay=settings.weight_decay)
    rows_per_step = batch_size * settings.accumulation
    chunks: list[torch.Tensor] = []
    for epoch in range(settings.epochs):
        order = torch.from_numpy(epoch_rows(data, settings, epoch))
        chunks += list(order.split(rows_per_step))
    chunks = chunks[: settings.max_steps]
    factor = (lambda step: 1 - step / len(chunks)) if settings.schedule == "linear" else (lambda _step: 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for rows in chunks:
        features = torch.from_numpy(data.input_ids)[rows].float()
        logits = (features + features @ tensors["lora"]) @ tensors["head"].T
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)[rows])
        optimizer.zero_grad()
        loss.backward()
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(tensors.values()), settings.clip_norm)
        optimizer.step()
        schedule.step()
    return {name: value.detach().numpy() - start[name] for name, value in tensors.items()}


@pytest.mark.parametrize(
    "settings",
    [
        TrainingSettings(),
        TrainingSettings(optimizer="sgd", learning_rate=0.1, head_learning_rate=0.3, epochs=2),
        TrainingSettings(accumulation=3, epochs=2, schedule="linear", weight_decay=0.05, clip_norm=0.2),
        TrainingSettings(epochs=3, max_steps=7, clip_norm=None, schedule="linear", seed=11),
        TrainingSettings(accumulation=50),
        TrainingSettings(class_balance=True, epochs=2, seed=3),
    ],
)
def test_the_update_equals_that_of_torch(settings: TrainingSettings) -> None:
    data = random_data(23)  # batches of 4 leave a last one of 3 rows
    outcome = train(SoftmaxRegression(), random_parameters(), TABLE, data, batch_size=4, settings=settings)
    expected = torch_training(data, settings, batch_size=4)
    for name, value in expected.items():
        np.testing.assert_allclose(outcome.update[name], value, atol=2e-5)
        assert np.abs(value).max() > 1e-3, "the reference must have moved"
    assert outcome.steps == planned_steps(23, batch_size=4, settings=settings)


@pytest.mark.parametrize("stop_after", [1, 3, 6])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resuming_gives_bit_for_bit_what_an_unbroken_run_gives(stop_after: int, optimizer: str) -> None:
    settings = TrainingSettings.model_validate(
        {"epochs": 2, "accumulation": 2, "schedule": "linear", "optimizer": optimizer}
    )
    data, seen = random_data(23), list[Checkpoint]()
    whole = train(
        SoftmaxRegression(), random_parameters(), TABLE, data, batch_size=4, settings=settings,
        on_step=lambda checkpoint, _steps: seen.append(checkpoint),
    )  # fmt: skip
    rest = train(
        SoftmaxRegression(), random_parameters(), TABLE, data, batch_size=4, settings=settings,
        resume=seen[stop_after - 1],
    )  # fmt: skip
    for name, value in whole.update.items():
        assert (rest.update[name] == value).all()
    assert (rest.steps, rest.examples, rest.loss_first, rest.loss_last, rest.gradient_norms) == (
        whole.steps, whole.examples, whole.loss_first, whole.loss_last, whole.gradient_norms,
    )  # fmt: skip


def test_only_the_rows_of_the_member_change() -> None:
    head_only = TABLE[1:]
    start = random_parameters()
    outcome = train(HeadOnly(), start, head_only, random_data(8), batch_size=4, settings=TrainingSettings())
    assert set(outcome.update) == {"head"}
    assert all((start[name] == value).all() for name, value in random_parameters().items())


class HeadOnly(SoftmaxRegression):
    """A member of depth 0."""

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        result = super().step(parameters, batch)
        return StepResult(result.loss, result.correct, result.examples, {"head": result.gradients["head"]})


def test_an_example_counts_once_however_many_epochs_it_is_seen() -> None:
    def examples(settings: TrainingSettings) -> int:
        data = random_data(10)
        return train(SoftmaxRegression(), random_parameters(), TABLE, data, batch_size=4, settings=settings).examples

    assert examples(TrainingSettings(epochs=3)) == 10
    assert examples(TrainingSettings(max_steps=2)) == 8
    assert examples(TrainingSettings(max_steps=4, epochs=10**9)) == 10, "epochs that are never begun cost nothing"


def test_an_example_that_comes_again_to_balance_its_class_counts_once() -> None:
    data = random_data(12)
    data.labels[:] = [1] * 11 + [0]
    settings = TrainingSettings(class_balance=True)
    outcome = train(SoftmaxRegression(), random_parameters(), TABLE, data, batch_size=4, settings=settings)
    assert (outcome.steps, outcome.examples) == (3, 7)


def test_the_losses_reported_are_those_of_the_first_and_last_tenth_of_the_batches() -> None:
    class Counting(SoftmaxRegression):
        calls = 0

        def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
            result = super().step(parameters, batch)
            self.calls += 1
            return StepResult(float(self.calls), result.correct, result.examples, result.gradients)

    data = random_data(20)
    outcome = train(Counting(), random_parameters(), TABLE, data, batch_size=1, settings=TrainingSettings())
    assert (outcome.loss_first, outcome.loss_last) == (1.5, 19.5)


def test_a_loss_that_is_no_number_ends_training_with_the_step() -> None:
    class Diverging(SoftmaxRegression):
        def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
            result = super().step(parameters, batch)
            return StepResult(float("nan"), result.correct, result.examples, result.gradients)

    with pytest.raises(QuadloomError, match="loss of step 1 is nan"):
        train(Diverging(), random_parameters(), TABLE, random_data(4), batch_size=4, settings=TrainingSettings())


def test_a_gradient_that_is_no_number_ends_training_with_the_layer() -> None:
    class Overflowing(SoftmaxRegression):
        def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
            result = super().step(parameters, batch)
            result.gradients["lora"][0, 0] = np.inf
            return result

    with pytest.raises(QuadloomError, match="gradient of layer 0 in step 1 is inf"):
        train(Overflowing(), random_parameters(), TABLE, random_data(4), batch_size=4, settings=TrainingSettings())


class TwoLayers:
    """Gradients that the test chooses, of two layers of two tensors and a head; step k has k * k times the first."""

    TABLE = tuple(
        ParameterSpec(name=name, shape=(2,), layer=layer, rank=None if layer == "head" else 1)
        for name, layer in (("a3", 3), ("b3", 3), ("a4", 4), ("b4", 4), ("head", "head"))
    )
    FIRST: ClassVar = {"a3": (3.0, 0.0), "b3": (0.0, 4.0), "a4": (1.0, 2.0), "b4": (2.0, 0.0), "head": (100.0, 100.0)}

    def __init__(self) -> None:
        self.calls = 0

    def step(self, _parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        self.calls += 1
        gradients = {name: self.calls**2 * np.asarray(value, np.float32) for name, value in self.FIRST.items()}
        return StepResult(0.5, 0, batch.examples, gradients)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_gradient_norms_are_of_each_layers_lora_tensors_before_clipping_the_median_over_the_steps(
    clip_norm: float | None,
) -> None:
    start = {row.name: np.zeros(row.shape, np.float32) for row in TwoLayers.TABLE}
    settings = TrainingSettings(clip_norm=clip_norm)
    outcome = train(TwoLayers(), start, TwoLayers.TABLE, random_data(16), batch_size=4, settings=settings)
    # The median of 1, 4, 9 and 16 is 6.5; in step 1 layer 3 has the norm sqrt(9 + 16), layer 4 sqrt(1 + 4 + 4).
    assert outcome.gradient_norms == pytest.approx({3: 6.5 * 5.0, 4: 6.5 * 3.0})
    assert set(outcome.update) == set(start), "the head is trained, and has no norm"


def test_no_gradient_lives_on_while_the_next_step_runs() -> None:
    class Watching(SoftmaxRegression):
        def __init__(self) -> None:
            self.earlier: list[weakref.ref[FloatArray]] = []

        def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
            assert not [each for each in self.earlier if each() is not None]
            result = super().step(parameters, batch)
            self.earlier += [weakref.ref(each) for each in result.gradients.values()]
            return result

    engine = Watching()
    train(engine, random_parameters(), TABLE, random_data(16), batch_size=4, settings=TrainingSettings())
    assert len(engine.earlier) == 8


def test_evaluation_weighs_a_short_last_batch_by_its_rows() -> None:
    data = random_data(23)
    found = evaluate(SoftmaxRegression(), random_parameters(), batches(data, batch_size=4))
    (whole,) = batches(data, batch_size=23)
    at_once = SoftmaxRegression().step(random_parameters(), whole)
    assert found.examples == 23
    assert found.accuracy == at_once.correct / 23
    assert found.loss == pytest.approx(at_once.loss, rel=1e-5)


def test_nothing_to_evaluate_on_is_refused() -> None:
    with pytest.raises(QuadloomError, match="0 examples"):
        evaluate(SoftmaxRegression(), random_parameters(), [])
