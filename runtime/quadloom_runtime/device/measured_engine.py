"""An engine that measures each step and takes as long as a slower device would."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quadloom_runtime.engines.engine import Batch, FloatArray, StepResult, TrainingEngine
from quadloom_runtime.memory import StepMemoryMeter


@dataclass(frozen=True)
class MeasuredEngine:
    """Wraps a training engine.

    Attributes:
        slowdown: a step of t seconds takes ``slowdown * t``.
    """

    engine: TrainingEngine
    meter: StepMemoryMeter
    slowdown: float
    sleep: Callable[[float], None]

    def step(self, parameters: Mapping[str, FloatArray], batch: Batch) -> StepResult:
        """One step of the wrapped engine."""
        started = time.monotonic()
        with self.meter:
            result = self.engine.step(parameters, batch)
        if self.slowdown > 1:
            self.sleep((self.slowdown - 1) * (time.monotonic() - started))
        return result
