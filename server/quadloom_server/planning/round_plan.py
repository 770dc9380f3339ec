"""What a planner of a whole round gets and gives: values that every planner shares.

A round planner sees all devices, since in a synchronous round each waits for the slowest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.cost_model import DeviceCost, ReferenceCost
from quadloom_server.planning.memory_estimate import MemoryEstimate


@dataclass(frozen=True)
class PlannedDevice:
    """What the server knows of one device when it plans a round.

    Attributes:
        name: no two devices of a round have the same.
        cost: how slow it computes and transfers, from its profile until it reported.
        memory: what its peaks are corrected by.
        excluded: members that it must not get.
        fetched: members that it has had, whose files it need not fetch again.
        rounds_since_included: rounds since it was last to have work, 0 if that was the previous one; counted from its
            enrolment if it never was. One that came for the work and found no place was not.
        steps: training steps of its round, None for those of the context; how many depends on its examples.
    """

    name: str
    capabilities: Capabilities
    cost: DeviceCost = field(default_factory=DeviceCost)
    memory: MemoryEstimate = field(default_factory=MemoryEstimate)
    excluded: frozenset[MemberKey] = frozenset()
    fetched: frozenset[MemberKey] = frozenset()
    rounds_since_included: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class RoundContext:
    """Everything that a planner may look at.

    Attributes:
        members: of the family.
        references: the cost of each of them before any device is known (`cost_model.reference_costs`).
        layers: transformer layers of the model; a member of depth d trains the layers from ``layers - d`` on.
        devices: that may take part.
        steps: training steps of the round, of devices that do not have a number of their own.
        rank: LoRA rank of the family, at which devices train that do not name a lower one.
        importance: layer, counted from the input, to its moving average of gradient norms.
        round_index: 1 for the first round.
        seed: of planners that draw; one plan follows from one context.
    """

    members: Sequence[MemberSpec]
    references: Mapping[MemberKey, ReferenceCost]
    layers: int
    devices: Sequence[PlannedDevice]
    steps: int
    rank: int
    importance: Mapping[int, float] = field(default_factory=dict)
    round_index: int = 1
    seed: int = 0

    def steps_of(self, device: PlannedDevice) -> int:
        """Training steps that the round has for the device."""
        return self.steps if device.steps is None else device.steps

    def rank_of(self, device: PlannedDevice) -> int:
        """LoRA rank of the device, unless the planner chooses a lower one."""
        return device.capabilities.rank or self.rank


@dataclass(frozen=True)
class PlannedWork:
    """What one device does in the round.

    Attributes:
        member: None if it sits out.
        reason: why, in words.
        expected_s: its completion time in seconds, None if it sits out.
        rank: LoRA rank, if the planner chose it; None for the device's.
    """

    member: MemberKey | None
    reason: str
    expected_s: float | None = None
    rank: int | None = None


RoundPlan = Mapping[str, PlannedWork]
"""Work by name of device, one entry for each."""
RoundPlanner = Callable[[RoundContext], RoundPlan]
"""Pure: the same context gives the same plan, whatever the order of its devices and members."""
