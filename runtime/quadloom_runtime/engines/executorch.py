"""ExecuTorch engine: training and evaluation programs on the plain runtime, the weights mapped from their file."""

import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quadloom_runtime.contract.manifest import TensorSpec
from quadloom_runtime.engines.engine import IGNORED_LABEL, Batch, EvaluationResult, FloatArray, StepResult
from quadloom_runtime.errors import MissingExtraError, QuadloomError, StepOutOfMemoryError

GRADIENT_PREFIX = "gradient."
# A padding row attends to something: one that attends to nothing may yield NaN, which no zero gradient hides.
PADDING = {"input_ids": 0, "attention_mask": 1, "token_type_ids": 0, "labels": IGNORED_LABEL}


class ExecutorchTrainingEngine:
    """One member's training program."""

    def __init__(
        self,
        program: Path,
        weights: Path,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int = 1,
        label: str,
    ) -> None:
        self._program = _Program(program, weights, inputs, outputs, threads=threads, label=label)

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        """Forward and backward.

        Raises:
            StepOutOfMemoryError: the step did not fit the memory limit.
            QuadloomError: the batch is longer than the program's.
        """
        found = self._program.run(parameters, batch)
        gradients = {
            name.removeprefix(GRADIENT_PREFIX): value
            for name, value in found.items()
            if name.startswith(GRADIENT_PREFIX)
        }
        return StepResult(
            loss=float(found["loss"]),
            correct=int(found["correct_count"]),
            examples=int(found["example_count"]),
            gradients=gradients,
        )


class ExecutorchEvaluationEngine:
    """The family's evaluation program."""

    def __init__(
        self,
        program: Path,
        weights: Path,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int = 1,
    ) -> None:
        self._program = _Program(program, weights, inputs, outputs, threads=threads, label="evaluation")

    def evaluate(self, parameters: Mapping[str, FloatArray], batch: Batch) -> EvaluationResult:
        """Forward only.

        Raises:
            QuadloomError: the batch is longer than the program's.
        """
        found = self._program.run(parameters, batch)
        logits = found.get("logits")
        return EvaluationResult(
            loss=float(found["loss"]),
            correct=int(found["correct_count"]),
            examples=int(found["example_count"]),
            logits=None if logits is None else logits[: len(batch.labels)],
        )


class _Program:
    """A loaded program of one static batch size."""

    def __init__(
        self,
        program: Path,
        weights: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        *,
        threads: int,
        label: str,
    ) -> None:
        self._module = _load(program, weights)
        self._inputs = inputs
        self._outputs = [spec.name for spec in outputs]
        self._threads = threads
        self._label = label

    def run(self, parameters: Mapping[str, FloatArray], batch: Batch) -> dict[str, Any]:
        """Outputs by name, as arrays of their own."""
        import torch

        feeds = [
            parameters[spec.name] if spec.name in parameters else padded(getattr(batch, spec.name), spec)
            for spec in self._inputs
        ]
        _use_threads(self._threads)
        try:
            values = self._module.forward([torch.from_numpy(np.ascontiguousarray(each)) for each in feeds])
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or re.search(r"bad_alloc|0x21|MemoryAllocation", str(error)):
                detail = str(error).splitlines()[0] if str(error) else "MemoryError"
                raise StepOutOfMemoryError(member=self._label, limit_bytes=None, detail=detail) from None
            raise
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}


def padded(rows: Any, spec: TensorSpec) -> Any:
    """A batch input filled up to the program's batch size with rows that do not count.

    Raises:
        QuadloomError: there are more rows than that.
    """
    wanted = spec.shape[0]
    assert wanted is not None, "ExecuTorch programs have a static batch size"
    if len(rows) > wanted:
        raise QuadloomError(
            f"a batch of {len(rows)} rows does not fit a program made for {wanted}",
            remedy="give batches of at most the family's batch size",
        )
    if len(rows) == wanted:
        return rows
    filling = np.full((wanted - len(rows), *rows.shape[1:]), PADDING[spec.name], dtype=rows.dtype)
    return np.concatenate([rows, filling])


def _load(program: Path, weights: Path) -> Any:
    portable_lib = _portable_lib()
    try:
        module = portable_lib._load_for_executorch(str(program), str(weights))
        module.method_names()  # loading is lazy: this reads the file, the first step allocates the arena
        return module
    except Exception as error:  # the binding raises whatever its loader makes of a broken file
        raise QuadloomError(
            f"ExecuTorch cannot load {program} with {weights}: {error}",
            remedy="check the family with `quadloom inspect DIR --verify`; it needs executorch >= 1.4",
        ) from error


def _use_threads(threads: int) -> None:
    """Size the runtime's thread pool, which all programs of the process share."""
    portable_lib = _portable_lib()
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)


@cache
def _portable_lib() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself experimental at each import
            from executorch.extension.pybindings import portable_lib
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=error.name or "executorch", extra="executorch") from None
    return portable_lib
