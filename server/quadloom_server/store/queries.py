"""What the state machine asks the store. Every function works inside the caller's transaction."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, case, func, select, update
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_server.store.tables import (
    AcceptedUpdate,
    Assignment,
    Device,
    PlannedAssignment,
    RankedAdapter,
    Round,
    RoundEvaluation,
    Task,
)


@dataclass(frozen=True)
class Progress:
    """Assignments of one round by what became of them, and the updates that count in it.

    Attributes:
        assigned: all assignments.
        accepted: updates, late ones of earlier rounds included.
        late: of these, the late ones.
    """

    assigned: int = 0
    accepted: int = 0
    late: int = 0
    failed: int = 0


def the_task(session: Session) -> Task:
    """The task whose state this database is."""
    # Asked for several times in every turn: found once per session.
    found: Task | None = session.info.get(Task)
    if found is None:
        found = session.info[Task] = session.scalars(select(Task)).one()
    return found


def device_count(session: Session) -> int:
    """Number of enrolled devices, revoked ones not counted."""
    return session.scalar(select(func.count()).select_from(Device).where(Device.revoked_at_s.is_(None))) or 0


def device_ids(session: Session) -> set[str]:
    """The enrolled devices, revoked ones not among them."""
    return set(session.scalars(select(Device.id).where(Device.revoked_at_s.is_(None))))


def device_named(session: Session, name: str) -> Device | None:
    """The device that has this name now."""
    return session.scalar(select(Device).where(Device.name == name, Device.revoked_at_s.is_(None)))


def latest_round(session: Session) -> Round | None:
    """The round with the highest number."""
    return session.scalar(select(Round).order_by(Round.number.desc()).limit(1))


def last_closed_round(session: Session) -> int:
    """The round whose adapter the next one starts from, 0 for the initial adapter."""
    return session.scalar(select(func.max(Round.number)).where(Round.state == "closed")) or 0


def round_progress(session: Session, number: int) -> Progress:
    """Count the assignments of one round, and its updates."""
    counted = select(Assignment.state, func.count()).where(Assignment.round_number == number).group_by(Assignment.state)
    by_state = {row[0]: row[1] for row in session.execute(counted)}
    is_late = case((AcceptedUpdate.started_round < AcceptedUpdate.round_number, 1))
    updates = select(func.count(), func.count(is_late)).where(AcceptedUpdate.round_number == number)
    accepted, late = session.execute(updates).one()
    return Progress(
        assigned=sum(by_state.values()),
        accepted=accepted,
        late=late,
        failed=by_state.get("failed", 0),
    )


def counting_round(session: Session) -> int:
    """The round in which an update that comes now counts: the open one, or else the next."""
    current = session.scalars(select(Round).order_by(Round.number.desc()).limit(1)).one()
    return current.number if current.state == "open" else current.number + 1


def outstanding_since(session: Session, round_number: int) -> int:
    """Number of assignments of this round and of earlier ones that are still open."""
    counted = select(func.count()).where(Assignment.state == "open", Assignment.round_number <= round_number)
    return session.scalar(counted) or 0


def open_assignment(session: Session, *, device_id: str) -> Assignment | None:
    """The one assignment that the device is at work on, of whatever round."""
    return session.scalar(select(Assignment).where(Assignment.device_id == device_id, Assignment.state == "open"))


def latest_assignment(session: Session, *, device_id: str, round_number: int) -> Assignment | None:
    """The device's most recent assignment of the round."""
    return session.scalar(
        select(Assignment)
        .where(Assignment.device_id == device_id, Assignment.round_number == round_number)
        .order_by(Assignment.attempt.desc())
        .limit(1)
    )


def has_accepted_update(session: Session, *, device_id: str, round_number: int) -> bool:
    """Whether an update of this device already counts in this round."""
    found = select(AcceptedUpdate.assignment_id).where(
        AcceptedUpdate.device_id == device_id, AcceptedUpdate.round_number == round_number
    )
    return session.scalar(found) is not None


def round_of_update(session: Session, *, device_id: str, started_round: int) -> int | None:
    """The round in which the work of this device for `started_round` already counts."""
    return session.scalar(
        select(AcceptedUpdate.round_number).where(
            AcceptedUpdate.device_id == device_id, AcceptedUpdate.started_round == started_round
        )
    )


def expire_open_assignments(
    session: Session,
    *,
    until_round: int | None = None,
    device_id: str | None = None,
) -> None:
    """Stop waiting for open assignments: all of them, or those of the rounds up to one, or of a device."""
    chosen = update(Assignment).where(Assignment.state == "open")
    if until_round is not None:
        chosen = chosen.where(Assignment.round_number <= until_round)
    if device_id is not None:
        chosen = chosen.where(Assignment.device_id == device_id)
    session.execute(chosen.values(state="expired"))


@dataclass(frozen=True)
class CountedUpdate:
    """What the aggregation needs of an update.

    Attributes:
        examples: different ones that it rests on.
        depth, rank: at which it was trained.
        started_round: in which its device got the adapter of the round before.
        clip_norm: L2 norm that bounds its change as it counts, None for no bound.
    """

    blob_sha256: str
    examples: int
    depth: int
    rank: int
    started_round: int
    clip_norm: float | None


def accepted_updates(session: Session, round_number: int) -> list[CountedUpdate]:
    """Every update that counts in a round, in a fixed order: those that began with the same tensors together."""
    found = (
        select(
            AcceptedUpdate.blob_sha256,
            AcceptedUpdate.examples,
            Assignment.depth,
            Assignment.rank,
            AcceptedUpdate.started_round,
            AcceptedUpdate.clip_norm,
        )
        .join(Assignment, Assignment.id == AcceptedUpdate.assignment_id)
        .where(AcceptedUpdate.round_number == round_number)
        .order_by(AcceptedUpdate.started_round, Assignment.rank, AcceptedUpdate.assignment_id)
    )
    return [CountedUpdate(*row) for row in session.execute(found)]


def ranks_assigned(session: Session, round_number: int) -> set[int]:
    """The ranks at which devices were to train in a round."""
    return set(session.scalars(select(Assignment.rank).where(Assignment.round_number == round_number).distinct()))


def blobs_to_keep(session: Session, *, also_closed: bool) -> set[str]:
    """Blob hashes of adapters of lower ranks, of updates of rounds that are not closed, or of all rounds, and of what
    the server's optimizer keeps after the last closed round.
    """
    updates = select(AcceptedUpdate.blob_sha256).distinct()
    if not also_closed:
        closed = select(Round.number).where(Round.state == "closed")
        updates = updates.where(AcceptedUpdate.round_number.not_in(closed))
    last = session.get(Round, last_closed_round(session))
    moments = set() if last is None or last.moments_sha256 is None else {last.moments_sha256}
    return {*session.scalars(updates), *session.scalars(select(RankedAdapter.sha256)), *moments}


def round_evaluation(session: Session, round_number: int) -> RoundEvaluation | None:
    """The evaluation after a round, 0 for the initial adapter."""
    return session.get(RoundEvaluation, round_number)


def member_key(assignment: Assignment | PlannedAssignment | Row[Any]) -> MemberKey:
    """The member that an assignment names, or a row with its columns."""
    return MemberKey.model_validate(
        {
            "depth": assignment.depth,
            "quantized_layers": assignment.quantized_layers,
            "recompute_percent": assignment.recompute_percent,
            "format": assignment.format,
        }
    )
