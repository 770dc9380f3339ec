"""What updates took, by the server's clock: from the assignment to the whole update, as plans count it.

Late updates, which no round has waited for, are left out.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.status import Waiting
from quadloom_server.planning.waiting import waiting_of
from quadloom_server.store.tables import AcceptedUpdate, Assignment

TAKEN_S = AcceptedUpdate.received_at_s - Assignment.assigned_at_s
IN_TIME = AcceptedUpdate.started_round == AcceptedUpdate.round_number


def real_seconds(session: Session, round_number: int) -> dict[str, float]:
    """By device the seconds that its update of the round took."""
    found = (
        select(AcceptedUpdate.device_id, TAKEN_S)
        .join(Assignment, Assignment.id == AcceptedUpdate.assignment_id)
        .where(AcceptedUpdate.round_number == round_number, IN_TIME)
    )
    return {device_id: float(taken_s) for device_id, taken_s in session.execute(found)}


def round_waiting(session: Session) -> dict[int, Waiting]:
    """By round what the devices whose updates count waited for the slowest of them."""
    found = (
        select(AcceptedUpdate.round_number, func.count(), func.sum(TAKEN_S), func.max(TAKEN_S))
        .join(Assignment, Assignment.id == AcceptedUpdate.assignment_id)
        .where(IN_TIME)
        .group_by(AcceptedUpdate.round_number)
    )
    return {
        number: waiting_of(devices, total_s=float(total_s), slowest_s=float(slowest_s))
        for number, devices, total_s, slowest_s in session.execute(found)
    }
