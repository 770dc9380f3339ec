"""Whose assignment is it?"""

from sqlalchemy.orm import Session, sessionmaker

from quadloom_server.errors import NotYourAssignmentError, UnknownAssignmentError
from quadloom_server.store.tables import Assignment


def require_own(sessions: sessionmaker[Session], assignment_id: str, *, device_id: str) -> None:
    """Check that the assignment is this device's.

    Raises:
        UnknownAssignmentError: no such assignment.
        NotYourAssignmentError: it is another device's.
    """
    with sessions() as session:
        row = session.get(Assignment, assignment_id)
        if row is None:
            raise UnknownAssignmentError(assignment_id)
        if row.device_id != device_id:
            raise NotYourAssignmentError(assignment_id)
