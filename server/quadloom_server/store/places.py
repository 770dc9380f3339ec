"""Who is at work, who waits for work, and who has had the places for how long, by kind of device: its profile."""

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from quadloom_server.planning.turns import Held
from quadloom_server.store.tables import AcceptedUpdate, Assignment, Device, PlannedAssignment, Round

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


def held_by_kind(session: Session, *, since_round: int, now_s: float) -> dict[str, Held]:
    """What each kind has had of the places since a round began; failed work and revoked devices not counted.

    Work holds its place to the end of the round that counts it; if it expired, to the end of the round that it was of.
    """
    ended = func.coalesce(AcceptedUpdate.round_number, case((Assignment.state == "expired", Assignment.round_number)))
    works = (
        select(_KIND, Assignment.assigned_at_s, Round.closed_at_s)
        .join(Assignment, Assignment.device_id == Device.id)
        .outerjoin(AcceptedUpdate, AcceptedUpdate.assignment_id == Assignment.id)
        .outerjoin(Round, Round.number == ended)
        .where(Assignment.state != "failed", Assignment.round_number >= since_round, Device.revoked_at_s.is_(None))
    )
    found: dict[str, Held] = {}
    for kind, since_s, until_s in session.execute(works):
        held = found.get(kind, Held())
        if until_s is None:
            found[kind] = held.with_one_more(for_s=now_s - since_s)
        else:
            found[kind] = Held(held.works + 1, held.works_s + until_s - since_s, held.open_s)
    return found


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
