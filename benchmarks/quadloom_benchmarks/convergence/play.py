"""One run of a race, kept in a folder that is named after everything that it depends on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quadloom_server.family import open_family
from quadloom_server.simulation.fleet_file import SimulatedFleet
from quadloom_server.simulation.opening import Inputs, identity
from quadloom_server.simulation.result import Budget, SimulationResult
from quadloom_server.simulation.simulation import simulate
from quadloom_server.simulation.world import RunSettings

REMEDY = "run the same command again: it goes on; give fewer --jobs if memory lacks"


@dataclass(frozen=True)
class Play:
    """A run but for its method and learning rate.

    Attributes:
        budget_s: virtual seconds.
    """

    inputs: Inputs
    fleet: SimulatedFleet
    settings: RunSettings
    budget_s: float

    def with_settings(self, **changes: Any) -> "Play":
        """With other values in its settings."""
        return replace(self, settings=self.settings.model_copy(update=changes))


def play(run: Play, method: str, learning_rate: float, work: Path) -> SimulationResult:
    """Play it, or what is left of it, in a folder of its own inside `work`."""
    training = run.settings.training.model_copy(update={"learning_rate": learning_rate})
    settings = run.settings.model_copy(update={"training": training})
    name = identity(run.inputs, open_family(run.inputs.family), run.fleet, method, settings)[:12]
    folder = work / f"{method}-{settings.seed}-{name}"
    return simulate(run.inputs, run.fleet, method, settings, Budget(virtual_s=run.budget_s), folder)
