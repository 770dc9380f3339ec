"""Enrolment tokens: whoever holds one may bring in a device that nobody knows yet. All in the caller's transaction."""

import hashlib
import math
import secrets
import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.administration import IssuedToken, IssueTokenRequest, TokenStatus
from quadloom_server.errors import RefusedRequestError
from quadloom_server.store.tables import EnrolmentToken

TOKEN_BYTES = 32
INVALID = {"revoked": "revoked-token", "expired": "expired-token", "used-up": "used-up-token"}
ASK_FOR_ANOTHER = "ask the owner of the fleet for a token: `quadloom server tokens issue`"


def new_secret() -> str:
    """32 random bytes as text that survives a shell, a file and a header."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def secret_sha256(secret: str) -> str:
    """What is stored of a secret. It is random, so a plain hash cannot be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue(session: Session, request: IssueTokenRequest, *, now_s: float) -> IssuedToken:
    """Make a token. Its text is in the answer and nowhere else."""
    secret = new_secret()
    row = EnrolmentToken(
        id=str(uuid.uuid4()),
        sha256=secret_sha256(secret),
        note=request.note,
        uses=0,
        max_uses=request.max_uses,
        created_at_s=now_s,
        expires_at_s=None if request.expires_after_s is None else now_s + request.expires_after_s,
    )
    session.add(row)
    session.flush()
    return IssuedToken(token=secret, status=_status(row, now_s=now_s))


def list_tokens(session: Session, *, now_s: float) -> tuple[TokenStatus, ...]:
    """Every token that was ever issued, the oldest first."""
    rows = session.scalars(select(EnrolmentToken).order_by(EnrolmentToken.created_at_s, EnrolmentToken.id))
    return tuple(_status(row, now_s=now_s) for row in rows)


def revoke(session: Session, token_id: str, *, now_s: float) -> TokenStatus:
    """Let nobody in by this token any more; devices that came in by it stay. Again changes nothing.

    Raises:
        RefusedRequestError: 404, no such token.
    """
    row = session.get(EnrolmentToken, token_id)
    if row is None:
        raise RefusedRequestError(
            f"no token has the id {token_id!r}",
            remedy="see `quadloom server tokens list`",
            code="unknown-token",
            http_status=404,
        )
    row.revoked_at_s = now_s if row.revoked_at_s is None else row.revoked_at_s
    return _status(row, now_s=now_s)


def redeem(session: Session, secret: str | None, *, now_s: float) -> str:
    """Use a token once; returns its id.

    Raises:
        RefusedRequestError: 403, there is no such token, or it is revoked, expired or used up.
    """
    if secret is None:
        raise _refused("the server does not know this device's key, and no enrolment token was sent", "invalid-token")
    row = session.scalar(select(EnrolmentToken).where(EnrolmentToken.sha256 == secret_sha256(secret)))
    if row is None:
        raise _refused("the enrolment token is none of this server's", "invalid-token")
    state = _state(row, now_s=now_s)
    if state != "valid":
        raise _refused(f"the enrolment token {row.id} is {state.replace('-', ' ')}", INVALID[state])
    row.uses += 1
    return row.id


def _state(row: EnrolmentToken, *, now_s: float) -> str:
    if row.revoked_at_s is not None:
        return "revoked"
    if row.expires_at_s is not None and now_s >= row.expires_at_s:
        return "expired"
    return "used-up" if row.uses >= (math.inf if row.max_uses is None else row.max_uses) else "valid"


def _status(row: EnrolmentToken, *, now_s: float) -> TokenStatus:
    return TokenStatus.model_validate(
        {
            "token_id": row.id,
            "note": row.note,
            "state": _state(row, now_s=now_s),
            "uses": row.uses,
            "max_uses": row.max_uses,
            "created_at_s": row.created_at_s,
            "expires_at_s": row.expires_at_s,
        }
    )


def _refused(cause: str, code: str) -> RefusedRequestError:
    return RefusedRequestError(cause, remedy=ASK_FOR_ANOTHER, code=code, http_status=403)
