"""ONNX Runtime training engine: a member packaged for `onnxruntime.training.api`.

It gives what every engine gives (parameters and batch in, loss and gradients out), and the API's own way to train: the
parameters stay in the module, and an optimizer graph updates them there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quadloom_runtime.engines.engine import Batch, EvaluationResult, FloatArray, StepResult
from quadloom_runtime.engines.onnx import session_options, step_error
from quadloom_runtime.engines.ort_package import require_training_package
from quadloom_runtime.errors import QuadloomError

EVALUATION_NAME = "ort-eval.onnx"
OPTIMIZER_NAME = "ort-optimizer.onnx"
CHECKPOINT_SUFFIX = ".checkpoint"


class OrtTrainingEngine:
    """One member: a training and an evaluation engine, and a trainer of its own.

    Args:
        graph: the training graph; checkpoint, evaluation graph, optimizer and weights lie beside it.
        label: names the member in errors.

    Raises:
        MissingExtraError: `onnxruntime-training` is not installed.
        QuadloomError: the plain package stands in its place, or the files cannot be loaded.
    """

    def __init__(self, graph: Path, *, threads: int = 1, label: str) -> None:
        require_training_package()
        from onnxruntime.training.api import CheckpointState, Module, Optimizer

        self._label = label
        try:
            self._state = CheckpointState.load_checkpoint(str(graph.with_suffix(CHECKPOINT_SUFFIX)))
            self._module = Module(
                str(graph),
                self._state,
                str(graph.with_name(EVALUATION_NAME)),
                session_options=session_options(threads=threads),
            )
            self._optimizer = Optimizer(str(graph.with_name(OPTIMIZER_NAME)), self._module)
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise QuadloomError(
                f"onnxruntime-training cannot load {graph} and what lies beside it: {error}",
                remedy="export the family again; it needs onnxruntime-training 1.19 and the family's weights file",
            ) from error
        self._trained = [name for name, parameter in self._state.parameters if parameter.requires_grad]

    @property
    def parameters(self) -> dict[str, FloatArray]:
        """A copy of every parameter that the module holds, trained or not."""
        return {name: np.array(parameter.data) for name, parameter in self._state.parameters}

    @parameters.setter
    def parameters(self, values: Mapping[str, FloatArray]) -> None:
        """Replace every parameter; the optimizer's moments stay."""
        for name, _ in self._state.parameters:
            self._state.parameters[name] = np.ascontiguousarray(values[name])

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        """Forward and backward with the given parameters, which the module then holds.

        Raises:
            StepOutOfMemoryError: the step did not fit the memory limit; the engine stays usable.
        """
        self.parameters = dict(parameters)
        return self._forward_backward(batch)

    def train(self, batch: Batch, *, learning_rate: float) -> StepResult:
        """Forward, backward and one AdamW step on the parameters that the module holds.

        Raises:
            StepOutOfMemoryError: the step did not fit the memory limit; nothing was updated.
        """
        result = self._forward_backward(batch)
        self._optimizer.set_learning_rate(learning_rate)
        self._optimizer.step()
        return result

    def evaluate(self, parameters: Mapping[str, FloatArray], batch: Batch) -> EvaluationResult:
        """Forward only, with the given parameters, which the module then holds."""
        self.parameters = dict(parameters)
        self._module.eval()
        found = self._run(batch)
        return EvaluationResult(
            loss=float(found["loss"]),
            correct=int(found["correct_count"]),
            examples=int(found["example_count"]),
            logits=found.get("logits"),
        )

    def save(self, path: Path) -> None:
        """Write the parameters and the optimizer's moments as a checkpoint."""
        from onnxruntime.training.api import CheckpointState

        CheckpointState.save_checkpoint(self._state, str(path), include_optimizer_state=True)

    def _forward_backward(self, batch: Batch) -> StepResult:
        self._module.train()
        self._module.lazy_reset_grad()
        found = self._run(batch)
        return StepResult(
            loss=float(found["loss"]),
            correct=int(found["correct_count"]),
            examples=int(found["example_count"]),
            gradients={name: np.array(self._state.parameters[name].grad) for name in self._trained},
        )

    def _run(self, batch: Batch) -> dict[str, Any]:
        try:
            values = self._module(*(getattr(batch, name) for name in self._module.input_names()))
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise step_error(error, label=self._label) from None
        return dict(zip(self._module.output_names(), values, strict=True))
