"""Plans of rounds, as they are kept: a server that is killed goes on with the plan that it made."""

from sqlalchemy import delete, func, select, union_all
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_server.store.queries import member_key
from quadloom_server.store.tables import AcceptedUpdate, Device, PlannedAssignment, Round


def planned_assignment(
    round_number: int,
    device_id: str,
    *,
    member: MemberKey | None,
    reason: str,
    expected_s: float | None,
    rank: int | None = None,
) -> PlannedAssignment:
    """The row that says what a device is to do in a round; nothing is stored yet."""
    return PlannedAssignment(
        round_number=round_number,
        device_id=device_id,
        depth=None if member is None else member.depth,
        quantized_layers=None if member is None else member.quantized_layers,
        recompute_percent=None if member is None else member.recompute_percent,
        format=None if member is None else member.format,
        reason=reason,
        expected_s=expected_s,
        rank=rank,
    )


def planned_for(session: Session, *, device_id: str, round_number: int) -> PlannedAssignment | None:
    """What the device is to do in the round, None if nobody has decided yet."""
    return session.get(PlannedAssignment, (round_number, device_id))


def planned_member(row: PlannedAssignment) -> MemberKey | None:
    """The member that the device is to train, None if it sits out."""
    return None if row.depth is None else member_key(row)


def forget_open_plan(session: Session, *, device_id: str) -> None:
    """Let the device be planned anew in the round that is open, unless it has done its work there."""
    open_rounds = select(Round.number).where(Round.state == "open")
    done_rounds = select(AcceptedUpdate.round_number).where(AcceptedUpdate.device_id == device_id)
    session.execute(
        delete(PlannedAssignment).where(
            PlannedAssignment.device_id == device_id,
            PlannedAssignment.round_number.in_(open_rounds),
            PlannedAssignment.round_number.not_in(done_rounds),
        )
    )


def devices_without_work(session: Session, round_number: int) -> int:
    """Number of devices that sit out the round, revoked ones not counted."""
    counted = (
        select(func.count())
        .select_from(PlannedAssignment)
        .join(Device, Device.id == PlannedAssignment.device_id)
        .where(
            PlannedAssignment.round_number == round_number,
            PlannedAssignment.depth.is_(None),
            Device.revoked_at_s.is_(None),
        )
    )
    return session.scalar(counted) or 0


def rounds_last_included(session: Session) -> dict[str, int]:
    """By device the last round in which it was to train, or its update counted; others are left out.

    One that was at work over several rounds has not sat them out. One that came and found no place has; one that never
    came has not: it would be due for ever, and have the others wait.
    """
    planned = select(PlannedAssignment.device_id, PlannedAssignment.round_number).where(
        PlannedAssignment.depth.is_not(None), PlannedAssignment.turned_away.is_(False)
    )
    rounds = union_all(planned, select(AcceptedUpdate.device_id, AcceptedUpdate.round_number)).subquery()
    found = select(rounds.c.device_id, func.max(rounds.c.round_number)).group_by(rounds.c.device_id)
    return {row[0]: row[1] for row in session.execute(found)}


def rounds_first_planned(session: Session) -> dict[str, int]:
    """By device the first round that was planned with it."""
    found = select(PlannedAssignment.device_id, func.min(PlannedAssignment.round_number)).group_by(
        PlannedAssignment.device_id
    )
    return {row[0]: row[1] for row in session.execute(found)}
