"""When rounds open, close and end."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from quadloom_runtime.contract.wire import MAXIMUM_RETRY_AFTER_S
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.averaging import DEFAULT_AGGREGATION, check_served
from quadloom_server.aggregation.server_optimizer import ServerOptimizer, server_optimizer
from quadloom_server.planning.registry import DEFAULT_PLANNER, planner

Selection = Literal["first-come", "in-turn"]


@dataclass(frozen=True)
class RoundPolicy:
    """The rules of a task.

    Attributes:
        rounds: rounds to train.
        max_devices: devices that may be enrolled, revoked ones not counted.
        min_devices: enrolled devices at which the first round opens.
        min_updates: accepted updates without which no round closes; fewer if fewer devices have work (`needed.py`).
        devices_per_round: devices that train at a time, those that are late from earlier rounds included; None for all.
        selection: who has the places if there are fewer than devices: whoever comes first, or kinds of devices in turn,
            each for its share of the time.
        largest_staleness: rounds by which an update may be late and still count. Above 0, a round with `min_updates`
            waits for those devices only that would otherwise be later than that.
        aggregation: name of how updates become an adapter, see `aggregation.methods.select`.
        server_optimizer: name of what the server makes of an aggregate, see `aggregation.server_optimizer`.
        server_learning_rate: its rate, None for its own. That of FedAvg is the share of an aggregate's change that the
            server takes; where rounds do not wait for all, several are under way that all make the same change, so less
            than 1.
        server_decay_rounds: with FedAvg the server takes less and less, after a round ``1 / sqrt(1 + round / this)`` of
            that share; None for no decay.
        mean_share: of all rounds, the last, over which the adapter is averaged that is evaluated and given out; devices
            start from the newest. 0 gives out that.
        round_deadline_s: seconds after which a round stops waiting for outstanding assignments.
        target_accuracy: accuracy of the global model at which training ends early, None to train all rounds.
        target_loss: the same for its loss.
        retry_after_s: seconds after which a device that has to wait asks again.
        retry_after_accepted_s: seconds after which a device whose report was accepted asks again.
        retry_after_rejected_s: seconds after which a device whose report was rejected asks again.
        max_update_norm: L2 norm above which an update is refused, None for no bound. One that is weighed by its steps
            may be made longer than it came: it is then scaled down to this.
        clip_update_norm: L2 norm to which larger updates are scaled down, None for no clipping; it bounds what counts,
            after all weighing by steps.
        max_examples_per_update: training examples above which an update is refused, None for what the device has. Where
            an update counts by what its device holds, that counts up to here.
        keep_updates: whether updates stay in the state folder after their round is closed.
        planner: name of what decides who does what in a round, see `planning.registry`.
    """

    rounds: int = 3
    max_devices: int = 10_000
    min_devices: int = 1
    min_updates: int = 1
    devices_per_round: int | None = None
    selection: Selection = "first-come"
    largest_staleness: int = 0
    aggregation: str = DEFAULT_AGGREGATION
    server_optimizer: str = "fedavg"
    server_learning_rate: float | None = None
    server_decay_rounds: float | None = None
    mean_share: float = 0.0
    round_deadline_s: float = 600.0
    target_accuracy: float | None = None
    target_loss: float | None = None
    retry_after_s: float = 1.0
    retry_after_accepted_s: float = 1.0
    retry_after_rejected_s: float = 5.0
    max_update_norm: float | None = None
    clip_update_norm: float | None = None
    max_examples_per_update: int | None = None
    keep_updates: bool = False
    planner: str = DEFAULT_PLANNER

    def __post_init__(self) -> None:
        planner(self.planner)
        check_served(self.aggregation)
        if self.largest_staleness < 0:
            raise QuadloomError(
                f"largest_staleness is {self.largest_staleness}", remedy="give largest_staleness a value of 0 or more"
            )
        if self.server_learning_rate is not None and not 0 < self.server_learning_rate <= 1:
            raise QuadloomError(
                f"server_learning_rate is {self.server_learning_rate}",
                remedy="give server_learning_rate more than 0 and at most 1",
            )
        for name in ("rounds", "max_devices", "min_devices", "min_updates"):
            if getattr(self, name) < 1:
                raise QuadloomError(f"{name} is {getattr(self, name)}", remedy=f"give {name} a value of at least 1")
        if self.devices_per_round is not None and self.devices_per_round < self.min_updates:
            raise QuadloomError(
                f"devices_per_round is {self.devices_per_round}, but no round closes with fewer than "
                f"{self.min_updates} updates (min_updates)",
                remedy="let more devices train at a time, or give a smaller min_updates",
            )
        if self.selection not in get_args(Selection):
            raise QuadloomError(
                f"the selection {self.selection!r} does not exist",
                remedy=f"choose from: {', '.join(get_args(Selection))}",
            )
        if not 0 <= self.mean_share < 1:
            raise QuadloomError(f"mean_share is {self.mean_share}", remedy="give mean_share at least 0 and less than 1")
        if not 0 < self.round_deadline_s < math.inf:
            cause = f"round_deadline_s is {self.round_deadline_s}"
            raise QuadloomError(cause, remedy="give round_deadline_s a positive time in seconds")
        for name in ("retry_after_s", "retry_after_accepted_s", "retry_after_rejected_s"):
            if not 0 < getattr(self, name) <= MAXIMUM_RETRY_AFTER_S:
                raise QuadloomError(
                    f"{name} is {getattr(self, name)}",
                    remedy=f"give {name} seconds above 0, at most {MAXIMUM_RETRY_AFTER_S:g}",
                )
        for name in (
            "server_decay_rounds",
            "target_loss",
            "max_update_norm",
            "clip_update_norm",
            "max_examples_per_update",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise QuadloomError(f"{name} is {value}", remedy=f"give {name} a positive number, or leave it out")
        server_optimizer(self.server_optimizer, rate=None, decay_rounds=self.server_decay_rounds)
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise QuadloomError(
                f"target_accuracy is {self.target_accuracy}", remedy="give the target accuracy as a share, e.g. 0.8"
            )

    @property
    def longest_retry_s(self) -> float:
        """Seconds after which every device that waits has asked again, if it is still there."""
        return max(self.retry_after_s, self.retry_after_accepted_s, self.retry_after_rejected_s)

    @property
    def largest_counted_norm(self) -> float | None:
        """L2 norm that no update has when it is aggregated, None for no bound."""
        return min((each for each in (self.max_update_norm, self.clip_update_norm) if each is not None), default=None)

    @property
    def server_step(self) -> ServerOptimizer:
        """What the server makes of an aggregate."""
        return server_optimizer(
            self.server_optimizer, rate=self.server_learning_rate, decay_rounds=self.server_decay_rounds
        )
