"""What stays the same throughout a simulated run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, Value
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_server.aggregation.adapter_layout import AdapterLayout
from quadloom_server.aggregation.method import Aggregation, Parameters
from quadloom_server.planning.cost_model import ReferenceCost
from quadloom_server.rounds.evaluation import Evaluator
from quadloom_server.simulation.evaluation_schedule import EvaluationSchedule, EveryRounds
from quadloom_server.simulation.fleet import SimulatedDevice
from quadloom_server.simulation.fleet_file import SimulatedFleet
from quadloom_server.simulation.local_training import LocalUpdate, LocalWork
from quadloom_server.simulation.methods import Method
from quadloom_server.simulation.virtual_clock import Closing

STABLE_TRAINING = TrainingSettings(learning_rate=3e-3, head_learning_rate=1e-3, max_steps=8)
"""Eight steps with a fresh AdamW each round: longer or faster rounds drift apart when labels differ."""


class RunSettings(Value):
    """How a run is made, whatever the method.

    Attributes:
        seed: of everything that is drawn: start, data split, devices, selection, durations, order of the data.
        training: of a device in a round; its own seed is replaced.
        evaluations: when the parameters are judged.
        start: a LoRA adapter drawn from the seed, see `adapter_start.py`, or the family's own.
        closing: when rounds close, None to leave it to the method.
        adjust_logits: see `logit_adjustment.py`.
    """

    seed: int = Field(default=0, ge=0)
    training: TrainingSettings = STABLE_TRAINING
    evaluations: EvaluationSchedule = EveryRounds()
    start: Literal["drawn", "family"] = "drawn"
    closing: Closing | None = None
    adjust_logits: bool = True

    @model_validator(mode="after")
    def _steps_are_bounded(self) -> "RunSettings":
        if self.training.max_steps is None:
            raise ValueError("training.max_steps is missing: every device makes as many steps")
        return self

    @property
    def steps(self) -> int:
        """Training steps of a device in a round."""
        return self.training.max_steps or 0


@dataclass(frozen=True)
class World:
    """A fleet, its data, and the method that trains it.

    Attributes:
        references: the cost of every member on the reference machine.
        devices: in the order of the fleet.
        layout: of the adapter, with the ranks at which they train.
        rows: of the training data, by name of device.
        train: does the work of one device; really.
        evaluate: judges parameters on held-out examples.
    """

    manifest: FamilyManifest
    references: Mapping[MemberKey, ReferenceCost]
    fleet: SimulatedFleet
    devices: Sequence[SimulatedDevice]
    rows: Mapping[str, Sequence[int]]
    method: Method
    layout: AdapterLayout
    aggregation: Aggregation[Any]
    settings: RunSettings
    train: Callable[[LocalWork, Parameters], LocalUpdate]
    evaluate: Evaluator

    def rank_of(self, device: SimulatedDevice) -> int:
        """LoRA rank at which the device trains."""
        match self.method.ranks:
            case "family":
                return self.manifest.lora.rank
            case "own":
                return device.rank
            case "smallest":
                return min(each.rank for each in self.devices)
