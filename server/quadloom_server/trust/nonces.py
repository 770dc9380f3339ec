"""No signed request is done twice: nonces are kept in the database, so a restart forgets none."""

import threading
from dataclasses import dataclass

from sqlalchemy import delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from quadloom_runtime.contract.signatures import MAX_CLOCK_SKEW_S, RequestSignature
from quadloom_server.errors import RefusedRequestError
from quadloom_server.store.tables import Device, UsedNonce


def refuse_replay(session: Session, signature: RequestSignature) -> None:
    """Look whether the nonce of a verified request was used, and write nothing.

    Raises:
        RefusedRequestError: 401, its key has used it before.
    """
    if session.get(UsedNonce, (signature.key_id, signature.nonce)) is not None:
        raise _replayed(signature)


def use_nonce(session: Session, signature: RequestSignature) -> None:
    """Note the nonce of a verified request.

    Raises:
        RefusedRequestError: 401, its key has used it before.
    """
    try:
        session.execute(
            insert(UsedNonce).values(key_id=signature.key_id, nonce=signature.nonce, created_at_s=signature.created_s)
        )
    except IntegrityError:
        raise _replayed(signature) from None


@dataclass
class NonceLog:
    """Notes the nonces of devices and when they were seen, without waiting for the disk.

    A killed process loses none of this. A power cut may lose the last moments: the clock bound then still refuses
    whatever was recorded more than `MAX_CLOCK_SKEW_S` ago.

    Attributes:
        writing: held while it writes, shared with everybody who writes to the same database.
    """

    sessions: sessionmaker[Session]
    writing: threading.Lock
    _purged_at_s: float = 0.0

    def note(self, signature: RequestSignature, *, now_s: float) -> None:
        """Note a verified request of an enrolled device.

        Raises:
            RefusedRequestError: 401, it is a replay.
        """
        with self.writing, self.sessions.begin() as session:
            use_nonce(session, signature)
            session.execute(update(Device).where(Device.id == signature.key_id).values(seen_at_s=now_s))
            if now_s - self._purged_at_s >= MAX_CLOCK_SKEW_S:
                # What was signed this long ago is refused for its time alone.
                session.execute(delete(UsedNonce).where(UsedNonce.created_at_s < now_s - MAX_CLOCK_SKEW_S))
                self._purged_at_s = now_s


def _replayed(signature: RequestSignature) -> RefusedRequestError:
    return RefusedRequestError(
        f"the request with nonce {signature.nonce!r} was already received",
        remedy="sign every request afresh, also when it is sent again",
        code="replayed-request",
        http_status=401,
    )
