"""The messages between device and server. JSON on the wire; tensors travel as safetensors, never as JSON numbers.

| request | body | answer |
|---|---|---|
| POST /v1/devices | EnrolRequest | EnrolResponse |
| POST /v1/devices/{device_id}/check-in | CheckInRequest | CheckInResponse |
| GET /v1/blobs/{sha256} | (Range, If-None-Match) | bytes |
| PUT /v1/assignments/{assignment_id}/update | safetensors, see `UpdateReport` | ReportResponse |
| POST /v1/assignments/{assignment_id}/failure | FailureReport | ReportResponse |
| GET /v1/task | | TaskStatus |

Every refusal is an `ErrorResponse` with an HTTP status of 400 or above. All but the last request are signed by the
device's key (`contract.signatures`), and a device acts only on itself and its own assignments.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from quadloom_runtime.contract.manifest import BlobReference, Format, MemberKey, Sha256, Value

WIRE_SCHEMA_VERSION: Final = 1

# Numbers from devices are bounded, so that sums of them fit the integers of every database and of JavaScript.
ByteCount = Annotated[int, Field(ge=0, le=10**15)]
Seconds = Annotated[float, Field(ge=0, le=10**8)]
BytesPerSecond = Annotated[float, Field(ge=1, le=10**12)]
LARGEST_GRADIENT_NORM: Final = 1e6
GradientNorm = Annotated[float, Field(ge=0, le=LARGEST_GRADIENT_NORM)]
Rank = Annotated[int, Field(ge=1, le=100_000)]
# Base64 of 64 bytes: its last letter has four unused bits, which are zero.
MANIFEST_SIGNATURE_PATTERN: Final = r"^[A-Za-z0-9+/]{85}[AQgw]==$"
ManifestSignature = Annotated[str, StringConstraints(pattern=MANIFEST_SIGNATURE_PATTERN)]
# A server that asks for more has made a mistake: a device must not sleep for years.
MAXIMUM_RETRY_AFTER_S: Final = 7 * 86_400.0


class Message(Value):
    """Base of everything that crosses the wire."""

    schema_version: Literal[1] = WIRE_SCHEMA_VERSION


class Capabilities(Value):
    """What a device can do and how much it may use.

    Attributes:
        formats: formats of members that its engines run.
        memory_limit_bytes: what one training step may allocate beyond the loaded, idle runtime.
        threads: threads that the engine uses.
        examples: number of local training examples.
        profile: name of the device profile, for people.
        slowdown: how much longer a step takes than on the machine that measured the family; a first estimate, for as
            long as nothing was reported.
        download_bytes_per_s, upload_bytes_per_s: the same of its link, None for no bound.
        rank: LoRA rank at which it trains, no more than the family's; None for the family's.
    """

    formats: tuple[Format, ...] = Field(min_length=1)
    memory_limit_bytes: ByteCount = Field(gt=0)
    threads: int = Field(ge=1, le=1024)
    examples: int = Field(ge=1, le=1_000_000_000)
    profile: str = Field(default="", max_length=100)
    slowdown: float = Field(default=1.0, ge=1e-3, le=1e6)
    download_bytes_per_s: BytesPerSecond | None = None
    upload_bytes_per_s: BytesPerSecond | None = None
    rank: Rank | None = None


class DeviceDescription(Message):
    """What a device says of itself.

    Attributes:
        name: for people; no two devices have the same.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    capabilities: Capabilities


class EnrolRequest(DeviceDescription):
    """A device introduces itself; enrolling again with the same key updates its name and capabilities.

    Attributes:
        public_key: base64 of the 32 bytes of the Ed25519 key that signs this and every later request.
        enrolment_token: lets in a device whose key the server does not know yet; a known one needs none.
    """

    public_key: str = Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")
    enrolment_token: str | None = Field(default=None, max_length=200)


class EnrolResponse(Message):
    """The id that the server gave the device, and the manifest to fetch.

    Attributes:
        manifest_signature: what came with the family, for devices that hold its public key; None if it is unsigned.
    """

    device_id: str
    manifest_sha256: Sha256
    manifest_signature: ManifestSignature | None = None


class TrainingSettings(Value):
    """How a device trains in one round.

    Attributes:
        optimizer: update rule; its state starts afresh each round.
        learning_rate, head_learning_rate: for LoRA tensors and for the head.
        weight_decay: decoupled weight decay (0 switches it off).
        epochs: passes over the local data, unless `max_steps` ends it earlier.
        max_steps: optimizer steps per round, None for no bound.
        accumulation: batches per optimizer step.
        clip_norm: bound on the global gradient norm, None for no clipping.
        schedule: course of the learning rate within the round.
        seed: of the data order.
        class_balance: whether every class comes as often as every other, see `class_balance.py`.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=1, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    accumulation: int = Field(default=1, ge=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear"] = "constant"
    seed: int = Field(default=0, ge=0)
    class_balance: bool = False


class Assignment(Message):
    """One device's work for one round.

    Attributes:
        manifest_signature: as in `EnrolResponse`.
        rank: LoRA rank of the adapter, of what is trained and of the update. The graph has the family's: below that, A
            is padded with zero rows and B, times the quotient of the ranks, with zero columns; gradients are cut alike.
        adapter: the global trainable tensors to start from (safetensors, all rows of the parameter table, at `rank`).
        blobs: every other file that the device needs: graph, weights, tokenizer, manifest members.
        deadline_s: seconds from now until the round may close without this device.
        largest_staleness: rounds that may open after this one while its update still counts, weighing
            ``1 / (1 + sqrt(rounds))``; with 0, none does that comes after its round.
        retry_after_accepted_s: seconds after its report at which the device checks in again.
        retry_after_rejected_s: the same when the report was rejected or refused, so that what is broken asks rarely.
        reason: why the planner chose this member, in words.
    """

    assignment_id: str
    task_id: str
    round_index: int = Field(ge=1)
    member: MemberKey
    rank: Rank
    manifest_sha256: Sha256
    manifest_signature: ManifestSignature | None = None
    adapter: BlobReference
    blobs: tuple[BlobReference, ...]
    settings: TrainingSettings
    deadline_s: float
    largest_staleness: int = Field(default=0, ge=0)
    retry_after_accepted_s: float = Field(ge=0, le=MAXIMUM_RETRY_AFTER_S)
    retry_after_rejected_s: float = Field(ge=0, le=MAXIMUM_RETRY_AFTER_S)
    reason: str


class CheckInRequest(Message):
    """A device asks for work. Nothing travels but the fact that it is there."""


class CheckInResponse(Message):
    """Work, or when to come back. `task_state` ``finished`` means: no more work will come; ``paused``: none for now.

    An assignment that was handed out and is still open is handed out again, so a restarted device can resume it.
    """

    task_state: Literal["running", "paused", "finished"]
    assignment: Assignment | None
    retry_after_s: float = Field(ge=0, le=MAXIMUM_RETRY_AFTER_S)
    reason: str


class UpdateReport(Message):
    """Travels as JSON in the ``report`` entry of the update's safetensors metadata.

    The tensors are new value minus old value, float32, exactly the rows that the assigned member trains, at the
    assigned rank.

    Attributes:
        examples: training examples that the update rests on (padding not counted); its weight in the average.
        steps: optimizer steps made.
        loss_first, loss_last: mean loss of the first and last tenth of the batches.
        train_s: seconds of training, throttling included.
        baseline_bytes: anonymous resident memory of the loaded, idle runtime.
        peak_step_bytes: peak anonymous memory of a step beyond `baseline_bytes`.
        downloaded_bytes: bytes fetched for this assignment (cache hits cost nothing).
        download_s: seconds in which they came; None if some came before the device was killed, which nobody timed.
        last_upload_bytes, last_upload_s: the update before this one, of which alone the device knows how long it took
            to send; None if there was none since the device started.
        gradient_norms: of each trained layer, from the input on, the L2 norm of the gradient of all its LoRA tensors
            before clipping, the median over the steps; empty if the device does not say.
    """

    examples: int = Field(ge=1, le=1_000_000_000)
    steps: int = Field(ge=1, le=1_000_000_000)
    loss_first: float
    loss_last: float
    train_s: Seconds
    baseline_bytes: ByteCount
    peak_step_bytes: ByteCount
    downloaded_bytes: ByteCount
    download_s: Seconds | None = None
    last_upload_bytes: ByteCount | None = None
    last_upload_s: Seconds | None = None
    gradient_norms: tuple[GradientNorm, ...] = Field(default=(), max_length=10_000)


class FailureReport(Message):
    """A device could not do its assignment. After ``out-of-memory`` the server assigns a smaller member."""

    kind: Literal["out-of-memory", "other"]
    message: str = Field(max_length=4000)


class ReportResponse(Message):
    """What became of an update or a failure report.

    ``duplicate``: the same assignment was already reported; nothing was counted twice. ``late``: its round had
    closed, or too many rounds had.
    """

    status: Literal["accepted", "duplicate", "late", "rejected"]
    reason: str


class ErrorResponse(Message):
    """Body of every refusal: a stable code, what was wrong with which value, and what to do about it.

    `server_time_s` comes with ``clock-skew``: seconds since the epoch, so that the device can correct its clock.
    """

    code: str
    cause: str
    remedy: str
    server_time_s: float | None = Field(default=None, ge=0, le=10**11)


class Evaluation(Value):
    """Result of the global model on the server's held-out data. A model that diverged may have no finite loss."""

    accuracy: float
    loss: float = Field(allow_inf_nan=True)
    examples: int
