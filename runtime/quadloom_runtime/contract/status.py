"""The state of a task as people see it: what `GET /v1/task` answers."""

from typing import Literal

from quadloom_runtime.contract.manifest import BlobReference, MemberKey, Value
from quadloom_runtime.contract.wire import Evaluation, Message


class RoundWork(Value):
    """What one device does in a round, and why.

    Attributes:
        device: its name.
        member: what it trains, None if it sits out.
        expected_s: seconds that it was expected to take, from the assignment to the end of the upload.
        real_s: seconds that it took, None as long as no update of it counts.
    """

    device: str
    member: MemberKey | None
    reason: str
    expected_s: float | None
    real_s: float | None


class Waiting(Value):
    """What devices that are done wait for the slowest.

    Attributes:
        sum_s: seconds, of all devices together.
        share: of the time that they all spend on the round; 0 if none of them waits.
    """

    sum_s: float
    share: float


class RoundStatus(Value):
    """One round as people see it.

    Attributes:
        planner: who decided what each device does.
        needed: updates without which it does not close, None once it is closed.
        late: of the accepted updates, those that began in an earlier round.
        work: what each device does in it; empty for all but the newest rounds.
        waiting: of the devices whose updates count.
        uniform_depth: the deepest that all devices could train when the round opened.
        uniform_waiting: what they were expected to wait if all of them trained that.
    """

    index: int
    state: Literal["open", "closed"]
    assigned: int
    accepted: int
    failed: int
    duration_s: float
    evaluation: Evaluation | None
    adapter: BlobReference | None
    planner: str = ""
    needed: int | None = None
    late: int = 0
    work: tuple[RoundWork, ...] = ()
    waiting: Waiting | None = None
    uniform_depth: int | None = None
    uniform_waiting: Waiting | None = None


class DeviceStatus(Value):
    """One enrolled device with its latest assignment.

    Attributes:
        rank: LoRA rank of that assignment.
        counted_round: the last round in which an update of it counts.
    """

    device_id: str
    name: str
    profile: str
    memory_limit_bytes: int
    member: MemberKey | None
    state: str
    round_index: int | None
    rounds_accepted: int
    peak_step_bytes: int | None
    train_s: float
    bytes_down: int
    bytes_up: int
    rank: int | None = None
    counted_round: int | None = None


class TaskStatus(Message):
    """The state of the whole task, read-only.

    Attributes:
        aggregation: how updates become an adapter.
        largest_staleness: rounds by which an update may be late and still count.
    """

    task_id: str
    state: Literal["running", "paused", "finished"]
    reason: str
    rounds: tuple[RoundStatus, ...]
    devices: tuple[DeviceStatus, ...]
    initial_evaluation: Evaluation | None
    aggregation: str = ""
    largest_staleness: int = 0
