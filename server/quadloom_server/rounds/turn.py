"""One step of the state machine: a transaction, the time it happens at, and what follows once it is committed."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session


@dataclass
class Turn:
    """What the functions of one request share.

    Attributes:
        session: the open transaction.
        now_s: the time of this turn.
        events: lines for people, printed after the commit.
        closing: the round to aggregate in the background after the commit.
    """

    session: Session
    now_s: float
    events: list[str] = field(default_factory=list)
    closing: int | None = None
