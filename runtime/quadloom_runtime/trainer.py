"""Train one member on local data, and evaluate a model; both independent of the engine."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median

import numpy as np

from quadloom_runtime.class_balance import balanced_order
from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.contract.wire import Evaluation, TrainingSettings
from quadloom_runtime.data import EncodedData, batches, epoch_order
from quadloom_runtime.engines.engine import Batch, EvaluationEngine, FloatArray, IntArray, TrainingEngine
from quadloom_runtime.errors import QuadloomError, TrainingDivergedError
from quadloom_runtime.optimizers import clip_by_global_norm, global_norm, make_optimizer, scheduled


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on after a stop, exactly as if there had been none.

    Attributes:
        step: optimizer steps made.
        parameters: current values of the trained tensors.
        optimizer_state: arrays of the optimizer.
        losses: mean loss of each batch so far.
        examples: rows that counted so far; an example counts once per epoch.
        train_s: seconds spent so far.
        gradient_norms: trained layer to the gradient norm of each step so far, see `layer_norms`.
    """

    step: int = 0
    parameters: Mapping[str, FloatArray] = field(default_factory=dict)
    optimizer_state: Mapping[str, FloatArray] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    examples: int = 0
    train_s: float = 0.0
    gradient_norms: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingOutcome:
    """What training gives: the change (new - old) of each trained tensor, and figures for the report.

    Attributes:
        examples: different examples that the update rests on.
        loss_first, loss_last: mean loss of the first and last tenth of the batches.
        gradient_norms: trained layer to the median of its gradient norms over the steps.
    """

    update: dict[str, FloatArray]
    examples: int
    steps: int
    loss_first: float
    loss_last: float
    train_s: float
    gradient_norms: dict[int, float]


@dataclass(frozen=True)
class Accumulated:
    """Mean gradient over all predictions of one optimizer step, the loss of each batch, and the rows that counted."""

    gradients: dict[str, FloatArray]
    losses: tuple[float, ...]
    examples: int


OnStep = Callable[[Checkpoint, int], None]
"""Called after each optimizer step with where training stands and the number of steps planned."""


def planned_steps(examples: int, *, batch_size: int, settings: TrainingSettings) -> int:
    """Optimizer steps that the settings ask for."""
    batches_per_epoch = math.ceil(examples / batch_size)
    steps = settings.epochs * math.ceil(batches_per_epoch / settings.accumulation)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def epoch_rows(data: EncodedData, settings: TrainingSettings, epoch: int) -> IntArray:
    """Row numbers of one pass over the data, in the order in which they are trained on.

    Raises:
        QuadloomError: classes shall be balanced where there are none.
    """
    if settings.class_balance:
        return balanced_order(data.labels, seed=settings.seed, epoch=epoch)
    return epoch_order(len(data), seed=settings.seed, epoch=epoch)


def train(
    engine: TrainingEngine,
    parameters: Mapping[str, FloatArray],
    trained: Sequence[ParameterSpec],
    data: EncodedData,
    *,
    batch_size: int,
    settings: TrainingSettings,
    resume: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> TrainingOutcome:
    """Run the optimizer over the local data.

    Args:
        parameters: the global value of every row of the parameter table; left unchanged.
        trained: the rows that this member trains.
        resume: where an earlier, interrupted run with the same arguments stood.

    Raises:
        StepOutOfMemoryError: a step did not fit.
        TrainingDivergedError: the loss or a gradient is no longer a number.
    """
    at = resume or Checkpoint()
    current = {**parameters, **at.parameters}
    optimizer = make_optimizer(settings.optimizer, weight_decay=settings.weight_decay)
    optimizer.state.update(at.optimizer_state)
    steps = planned_steps(len(data), batch_size=batch_size, settings=settings)
    for group in islice(_step_batches(data, batch_size=batch_size, settings=settings), at.step, steps):
        # Only `current` and the optimizer hold arrays: another reference would keep each beside its successor.
        at = replace(at, parameters={}, optimizer_state={})
        started = time.monotonic()
        found = accumulate(engine, current, group)
        norms = layer_norms(found.gradients, trained)
        _check_finite(found.losses, norms, step=at.step + 1)
        gradients = found.gradients
        if settings.clip_norm is not None:
            gradients = clip_by_global_norm(gradients, settings.clip_norm)
        optimizer.update(current, gradients, _rates(trained, settings, step=at.step, steps=steps))
        at = Checkpoint(
            step=at.step + 1,
            parameters={row.name: current[row.name] for row in trained},
            optimizer_state=dict(optimizer.state),
            losses=at.losses + found.losses,
            examples=at.examples + found.examples,
            train_s=at.train_s + time.monotonic() - started,
            gradient_norms={layer: (*at.gradient_norms.get(layer, ()), norm) for layer, norm in norms.items()},
        )
        del found, gradients  # memory is short in the next step
        if on_step is not None:
            on_step(at, steps)
    different = _different_rows(data, settings, batch_size=batch_size, steps=at.step)
    return _outcome(at, parameters, examples_at_most=different)


def accumulate(engine: TrainingEngine, parameters: Mapping[str, FloatArray], group: Iterable[Batch]) -> Accumulated:
    """Run the batches of one optimizer step; each batch weighs by its predictions that count, whatever its padding.

    One batch's gradients are added up before the next one runs, so memory does not grow with the number of batches.
    """
    total: dict[str, FloatArray] = {}
    losses: list[float] = []
    predictions = rows = 0
    for batch in group:
        result = engine.step(parameters, batch)
        weight = np.float32(result.examples)
        for name, gradient in result.gradients.items():
            if name in total:
                total[name] += weight * gradient
            else:
                total[name] = weight * gradient
        losses.append(result.loss)
        predictions += result.examples
        rows += batch.examples
        del result  # its gradients would stay beside the next batch
    for gradient in total.values():
        gradient /= np.float32(predictions)
    return Accumulated(total, tuple(losses), rows)


def layer_norms(gradients: Mapping[str, FloatArray], trained: Sequence[ParameterSpec]) -> dict[int, float]:
    """L2 norm of the gradient of each trained layer, over all of its LoRA tensors together; the head has none."""
    of_layer: dict[int, dict[str, FloatArray]] = {}
    for row in trained:
        if isinstance(row.layer, int):
            of_layer.setdefault(row.layer, {})[row.name] = gradients[row.name]
    return {layer: global_norm(tensors) for layer, tensors in of_layer.items()}


def evaluate(engine: EvaluationEngine, parameters: Mapping[str, FloatArray], batches: Iterable[Batch]) -> Evaluation:
    """Accuracy and mean loss over all predictions that count: of a language model, next tokens.

    Raises:
        QuadloomError: there are none.
    """
    results = [engine.evaluate(parameters, batch) for batch in batches]
    examples = sum(result.examples for result in results)
    if examples == 0:
        raise QuadloomError("0 examples to evaluate on", remedy="give held-out data with at least one labelled row")
    return Evaluation(
        accuracy=sum(result.correct for result in results) / examples,
        loss=sum(result.loss * result.examples for result in results) / examples,
        examples=examples,
    )


def _step_batches(data: EncodedData, *, batch_size: int, settings: TrainingSettings) -> Iterator[list[Batch]]:
    """The batches of each optimizer step; an epoch's last step may have fewer."""
    for epoch in range(settings.epochs):
        of_epoch = batches(data, batch_size=batch_size, order=epoch_rows(data, settings, epoch))
        while group := list(islice(of_epoch, settings.accumulation)):
            yield group


def _different_rows(data: EncodedData, settings: TrainingSettings, *, batch_size: int, steps: int) -> int:
    """Rows that the first `steps` optimizer steps have seen, each counted once."""
    rows_per_step = batch_size * settings.accumulation
    seen = [np.empty(0, np.int64)]
    for epoch in range(settings.epochs):
        if steps <= 0:
            break  # there may be far more epochs than steps
        order = epoch_rows(data, settings, epoch)
        seen.append(order[: steps * rows_per_step])
        steps -= math.ceil(len(order) / rows_per_step)
    return len(np.unique(np.concatenate(seen)))


def _rates(trained: Sequence[ParameterSpec], settings: TrainingSettings, *, step: int, steps: int) -> dict[str, float]:
    lora = scheduled(settings.learning_rate, settings.schedule, step=step, steps=steps)
    head = scheduled(settings.head_learning_rate, settings.schedule, step=step, steps=steps)
    return {row.name: head if row.layer == "head" else lora for row in trained}


def _check_finite(losses: Sequence[float], norms: Mapping[int, float], *, step: int) -> None:
    for loss in losses:
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"the loss of step {step}", loss)
    for layer, norm in norms.items():
        if not math.isfinite(norm):
            raise TrainingDivergedError(f"the gradient of layer {layer} in step {step}", norm)


def _outcome(at: Checkpoint, old: Mapping[str, FloatArray], *, examples_at_most: int) -> TrainingOutcome:
    tenth = max(1, len(at.losses) // 10)
    return TrainingOutcome(
        update={name: new - old[name] for name, new in at.parameters.items()},
        examples=min(at.examples, examples_at_most),
        steps=at.step,
        loss_first=float(np.mean(at.losses[:tenth])),
        loss_last=float(np.mean(at.losses[-tenth:])),
        train_s=at.train_s,
        gradient_norms={layer: median(norms) for layer, norms in at.gradient_norms.items()},
    )
