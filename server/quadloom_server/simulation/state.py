"""Where a simulated run stands: everything that the next round depends on, beside what never changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from quadloom_runtime.contract.manifest import MemberKey, Value
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.server_optimizer import Moments
from quadloom_server.planning.calibration import TrainingReport, TransferReport
from quadloom_server.simulation.virtual_clock import Arrival

KEPT_REPORTS = 64
"""Of each kind and device: older ones weigh a quarter of the newest at most in the calibration."""


class UpdateFacts(Value):
    """An update under way, without its tensors.

    Attributes:
        started_round, started_s: when its device got work.
        at_s: when it arrives.
        examples: different ones that it rests on.
        norms: layer to the norm of its gradient, as the device reports it.
        training, download, upload: what the device reports when it is done.
    """

    device: str
    member: MemberKey
    started_round: int
    started_s: float
    at_s: float
    examples: int
    norms: dict[int, float]
    training: TrainingReport
    download: TransferReport
    upload: TransferReport

    @property
    def arrival(self) -> Arrival:
        """As the clock sees it."""
        return Arrival(self.device, self.started_round, self.at_s)


class DeviceHistory(Value):
    """What the server has learned of a device.

    Attributes:
        training, downloads, uploads: its reports, oldest first.
        fetched: members whose files it has.
        works: how often its update arrived.
        works_s: virtual seconds for which it held a place for that, to the end of the round that counts the update.
        sat_out: how often in a row it was asked and got no work.
    """

    training: tuple[TrainingReport, ...] = ()
    downloads: tuple[TransferReport, ...] = ()
    uploads: tuple[TransferReport, ...] = ()
    fetched: tuple[MemberKey, ...] = ()
    works: int = 0
    works_s: float = 0.0
    sat_out: int = 0

    def after_being_asked(self, member: MemberKey | None) -> "DeviceHistory":
        """Once a round has given it this member, or None."""
        if member is None:
            return self.model_copy(update={"sat_out": self.sat_out + 1})
        fetched = self.fetched if member in self.fetched else (*self.fetched, member)
        return self.model_copy(update={"fetched": fetched, "sat_out": 0})

    def after_update(self, update: UpdateFacts, *, closed_s: float) -> "DeviceHistory":
        """Once a round that closed then has counted an update of it."""
        return self.model_copy(
            update={
                "training": (*self.training, update.training)[-KEPT_REPORTS:],
                "downloads": (*self.downloads, update.download)[-KEPT_REPORTS:],
                "uploads": (*self.uploads, update.upload)[-KEPT_REPORTS:],
                "works": self.works + 1,
                "works_s": self.works_s + closed_s - update.started_s,
            }
        )


@dataclass(frozen=True)
class Update:
    """An update under way: the tensors that it moved, before and after."""

    facts: UpdateFacts
    start: Mapping[str, FloatArray]
    trained: Mapping[str, FloatArray]


class RoundRecord(Value):
    """One closed round.

    Attributes:
        opened_s, closed_s: virtual seconds.
        updates: those that it folded.
        late: of these, those of earlier rounds.
        sat_out: devices that were asked and got no work.
        layers: mean number of layers of the members that the updates come from, 0 without any.
        busy_s: sum over the updates of what their devices worked and transferred.
        waiting_s: sum over the updates of the time from arrival to the end of the round.
        downloaded_bytes, uploaded_bytes: by the devices of these updates.
        evaluation: of the parameters after the round, None if they were not evaluated.
        energy_above: layer to the share of these parameters' energy above the fleet's smallest rank, see
            `aggregation/rank_energy.py`; empty if they were not evaluated, or the method ignores the ranks of devices.
    """

    index: int = Field(ge=0)
    opened_s: float
    closed_s: float
    updates: int = 0
    late: int = 0
    sat_out: int = 0
    layers: float = 0.0
    busy_s: float = 0.0
    waiting_s: float = 0.0
    downloaded_bytes: int = 0
    uploaded_bytes: int = 0
    evaluation: Evaluation | None = None
    energy_above: dict[int, float] = Field(default_factory=dict)


class Facts(Value):
    """All of a state but its tensors.

    Attributes:
        records: of every closed round, the first being round 0, the start.
        importance: layer to its moving average of gradient norms.
        histories: by name of device.
    """

    records: tuple[RoundRecord, ...] = Field(min_length=1)
    importance: dict[int, float] = Field(default_factory=dict)
    histories: dict[str, DeviceHistory]

    @property
    def now_s(self) -> float:
        """Virtual seconds since the start."""
        return self.records[-1].closed_s

    @property
    def next_round(self) -> int:
        """Number of the round to play."""
        return self.records[-1].index + 1


@dataclass(frozen=True)
class State:
    """A run between two rounds.

    Attributes:
        parameters: the global adapter, at the family's rank, from which devices start.
        mean: of them over recent rounds, if the method has it judged instead.
        under_way: updates that have not arrived yet.
        moments: of the method's server optimizer.
    """

    facts: Facts
    parameters: Mapping[str, FloatArray]
    under_way: tuple[Update, ...] = ()
    moments: Moments = field(default_factory=Moments)
    mean: Mapping[str, FloatArray] | None = None

    @property
    def judged(self) -> Mapping[str, FloatArray]:
        """What the run has to show."""
        return self.parameters if self.mean is None else self.mean
