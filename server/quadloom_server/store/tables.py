"""The server's tables. Times are seconds since the epoch, by the server's clock."""

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 11


class Base(DeclarativeBase):
    """Registry of all tables."""


class Task(Base):
    """One row: what this state is the state of, and what its owner wants: running, paused or ended.

    `aggregation` names the method that it was begun with: rounds of one task are not averaged in two ways.
    `paused_at_s` is when the current pause began; deadlines stand still from then on.
    """

    __tablename__ = "task"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    schema_version: Mapped[int]
    family_identity: Mapped[str] = mapped_column(String(64))
    aggregation: Mapped[str] = mapped_column(String(40))
    created_at_s: Mapped[float]
    control: Mapped[str] = mapped_column(String(8), default="running")
    paused_at_s: Mapped[float | None]


class EnrolmentToken(Base):
    """Lets devices in that nobody knows yet. Only its hash is here; the token itself was shown once.

    `max_uses` and `expires_at_s` are None for no bound.
    """

    __tablename__ = "enrolment_tokens"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    note: Mapped[str] = mapped_column(String(200))
    uses: Mapped[int]
    max_uses: Mapped[int | None]
    created_at_s: Mapped[float]
    expires_at_s: Mapped[float | None]
    revoked_at_s: Mapped[float | None]


class Device(Base):
    """One enrolled device with the capabilities that it last stated. Its key is its identity, for good.

    A name belongs to one device at a time; that of a revoked device is free again.
    """

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    public_key: Mapped[str] = mapped_column(String(44), unique=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("enrolment_tokens.id"))
    capabilities: Mapped[dict[str, Any]] = mapped_column(JSON)
    enrolled_at_s: Mapped[float]
    seen_at_s: Mapped[float]
    revoked_at_s: Mapped[float | None]
    __table_args__ = (
        Index(
            "one_device_per_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at_s IS NULL"),
            postgresql_where=text("revoked_at_s IS NULL"),
        ),
    )


class UsedNonce(Base):
    """A nonce that a key has used, kept for as long as the request that it came with could be sent again."""

    __tablename__ = "used_nonces"
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    nonce: Mapped[str] = mapped_column(String(24), primary_key=True)
    created_at_s: Mapped[int] = mapped_column(BigInteger, index=True)
    __table_args__ = ({"sqlite_with_rowid": False},)


class Round(Base):
    """One round: open -> closing -> closed.

    `window_opened_at_s` is when the current deadline was set; it moves when the deadline is extended. Work that failed
    before it may be tried again.

    `mean_sha256` is of the mean over recent rounds after this one, and `moments_sha256` the blob of what the server's
    optimizer keeps for the next; None where there is none.

    `planner` decided what each device does (`PlannedAssignment`). `importance` is what it knew of the layers: the
    moving average of gradient norms by layer. `uniform_depth` is the deepest that every device could have trained, and
    `uniform_wait_s` and `uniform_wait_share` what they were then expected to wait for each other.
    """

    __tablename__ = "rounds"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(8))
    opened_at_s: Mapped[float]
    window_opened_at_s: Mapped[float]
    deadline_at_s: Mapped[float]
    closed_at_s: Mapped[float | None]
    adapter_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    adapter_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    mean_sha256: Mapped[str | None] = mapped_column(String(64))
    moments_sha256: Mapped[str | None] = mapped_column(String(64))
    planner: Mapped[str] = mapped_column(String(40))
    importance: Mapped[dict[str, float]] = mapped_column(JSON)
    uniform_depth: Mapped[int]
    uniform_wait_s: Mapped[float]
    uniform_wait_share: Mapped[float]


class RankedAdapter(Base):
    """A round's adapter as devices of a rank below the family's get it, 0 being the initial one; a blob.

    It is made once: an update is the change of exactly these tensors.
    """

    __tablename__ = "ranked_adapters"
    round_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class PlannedAssignment(Base):
    """What a device is to do in a round, decided when the round opened, or when the device came.

    Without a member it sits out. `expected_s` is from the assignment to the end of the upload, None if it sits out.
    `rank` is None for that of the device.
    `turned_away` says that it came for the work and found no place (`RoundPolicy.devices_per_round`).
    """

    __tablename__ = "planned_assignments"
    round_number: Mapped[int] = mapped_column(ForeignKey("rounds.number"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    depth: Mapped[int | None]
    quantized_layers: Mapped[int | None]
    recompute_percent: Mapped[int | None]
    format: Mapped[str | None] = mapped_column(String(20))
    reason: Mapped[str]
    expected_s: Mapped[float | None]
    rank: Mapped[int | None]
    turned_away: Mapped[bool] = mapped_column(default=False)


class Assignment(Base):
    """One member given to one device: open -> accepted, failed or expired. `rank` is that of adapter and update.

    `memory_limit_bytes` is the device's limit at that time, so that an out-of-memory failure stops counting against a
    device that has got more since.

    `settings` are those that it trains with. They stay what they were when the server is started again with others:
    the device goes on with what it began.
    """

    __tablename__ = "assignments"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    round_number: Mapped[int] = mapped_column(ForeignKey("rounds.number"), index=True)
    attempt: Mapped[int]
    depth: Mapped[int]
    quantized_layers: Mapped[int]
    recompute_percent: Mapped[int]
    format: Mapped[str] = mapped_column(String(20))
    rank: Mapped[int]
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    reason: Mapped[str]
    memory_limit_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8))
    assigned_at_s: Mapped[float]
    failure_kind: Mapped[str | None] = mapped_column(String(20))
    failure_message: Mapped[str | None]
    __table_args__ = (
        UniqueConstraint("device_id", "round_number", "attempt"),
        Index(
            "one_open_assignment_per_device",
            "device_id",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
    )


class AcceptedUpdate(Base):
    """One update that counts. The keys make it exactly once per assignment, and once per device and round.

    It counts in `round_number`, which may be about to open, and rests on the adapter before `started_round`; a late one
    has a lower `started_round`.
    `clip_norm` is the L2 norm that it is scaled down to when its round is aggregated, None for as it is.
    """

    __tablename__ = "updates"
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    round_number: Mapped[int] = mapped_column(index=True)
    started_round: Mapped[int] = mapped_column(ForeignKey("rounds.number"))
    blob_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    examples: Mapped[int] = mapped_column(BigInteger)
    train_s: Mapped[float]
    peak_step_bytes: Mapped[int] = mapped_column(BigInteger)
    downloaded_bytes: Mapped[int] = mapped_column(BigInteger)
    clip_norm: Mapped[float | None]
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    received_at_s: Mapped[float]
    __table_args__ = (
        UniqueConstraint("device_id", "round_number"),
        UniqueConstraint("device_id", "started_round"),
    )


class RoundEvaluation(Base):
    """The global model on the held-out data after a round; round 0 is the initial adapter."""

    __tablename__ = "evaluations"
    round_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    accuracy: Mapped[float]
    loss: Mapped[float]
    examples: Mapped[int] = mapped_column(BigInteger)
