"""Who is at work, who waits for work, and who has had how much of it, by kind of device: the profile that it states."""

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from quadloom_server.store.tables import AcceptedUpdate, Assignment, Device, PlannedAssignment

_KIND: ColumnElement[str] = func.coalesce(Device.capabilities["profile"].as_string(), "")


def kind_of(device: Device) -> str:
    """Its profile, empty if it states none."""
    return device.capabilities.get("profile") or ""


def places_taken(session: Session, round_number: int) -> int:
    """Devices at work, on this round or an earlier one, and those whose update counts in this one."""
    at_work = select(func.count()).where(Assignment.state == "open")
    done = select(func.count()).where(AcceptedUpdate.round_number == round_number)
    return (session.scalar(at_work) or 0) + (session.scalar(done) or 0)


def fleet_by_kind(session: Session) -> dict[str, int]:
    """Enrolled devices by kind, revoked ones not counted."""
    counted = select(_KIND, func.count()).where(Device.revoked_at_s.is_(None)).group_by(_KIND)
    return {row[0]: row[1] for row in session.execute(counted)}


def works_by_kind(session: Session, *, since_round: int) -> dict[str, int]:
    """How often devices of each kind have had work that did not fail since a round began, revoked ones not counted."""
    counted = (
        select(_KIND, func.count())
        .join(Assignment, Assignment.device_id == Device.id)
        .where(Assignment.state != "failed", Assignment.round_number >= since_round, Device.revoked_at_s.is_(None))
        .group_by(_KIND)
    )
    return {row[0]: row[1] for row in session.execute(counted)}


def kinds_waiting(session: Session, round_number: int, *, seen_since_s: float) -> set[str]:
    """Kinds of which a device came lately that is to have work in the round, and has not got, done or failed it."""
    busy = select(Assignment.device_id).where(
        (Assignment.state == "open") | ((Assignment.round_number == round_number) & (Assignment.state != "expired"))
    )
    done = select(AcceptedUpdate.device_id).where(AcceptedUpdate.round_number == round_number)
    sits_out = select(PlannedAssignment.device_id).where(
        PlannedAssignment.round_number == round_number, PlannedAssignment.depth.is_(None)
    )
    free = (
        select(_KIND)
        .where(
            Device.revoked_at_s.is_(None),
            Device.seen_at_s >= seen_since_s,
            Device.id.not_in(busy),
            Device.id.not_in(done),
            Device.id.not_in(sits_out),
        )
        .distinct()
    )
    return set(session.scalars(free))
