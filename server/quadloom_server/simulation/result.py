"""What a simulated run found, as a value and a file."""

from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.durable_files import write_atomically
from quadloom_server.simulation.state import RoundRecord
from quadloom_server.simulation.world import RunSettings

RESULT_NAME: Final = "result.json"


class Budget(Value):
    """How long a run goes on: until the first of what is given.

    Attributes:
        rounds: closed rounds.
        virtual_s: virtual seconds; a round that would close later is not played.
    """

    rounds: int | None = Field(default=None, ge=1)
    virtual_s: float | None = Field(default=None, gt=0)


class SimulationResult(Value):
    """A finished run.

    Attributes:
        run: identity of what was run, and how.
        budget: how long.
        records: of every round, the first being the start.
        final: evaluation of the last parameters.
        ended_s: virtual seconds at which the run ended: the budget, or the end of the last round.
    """

    run: str
    method: str
    settings: RunSettings
    budget: Budget
    records: tuple[RoundRecord, ...] = Field(min_length=1)
    final: Evaluation
    ended_s: float

    def at(self, time_s: float) -> Evaluation:
        """Of the last round that had closed by then.

        Raises:
            ValueError: its parameters were not judged.
        """
        standing = [each for each in self.records if each.closed_s <= time_s][-1]
        found = self.final if standing is self.records[-1] else standing.evaluation
        if found is None:
            raise ValueError(f"round {standing.index}, which stands at {time_s} s, was not judged")
        return found

    @property
    def waiting_share(self) -> float:
        """Of the time that devices had work or waited for a round to end with it done, the share that they waited."""
        waiting, busy = sum(each.waiting_s for each in self.records), sum(each.busy_s for each in self.records)
        return waiting / (waiting + busy) if waiting + busy > 0 else 0.0

    @property
    def transferred_bytes(self) -> int:
        """Both ways, all devices."""
        return sum(each.downloaded_bytes + each.uploaded_bytes for each in self.records)


def save_result(folder: Path, result: SimulationResult) -> None:
    """Write the folder's result.

    Raises:
        StorageError: the disk does not take it.
    """
    write_atomically(folder / RESULT_NAME, (result.model_dump_json(indent=1) + "\n").encode())


def load_result(folder: Path, *, run: str, budget: Budget) -> SimulationResult | None:
    """The result in `folder`, if it is of this very run and budget."""
    try:
        found = SimulationResult.model_validate_json((folder / RESULT_NAME).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if (found.run, found.budget) == (run, budget) else None
