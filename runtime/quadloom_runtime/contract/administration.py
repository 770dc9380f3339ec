"""The messages between the owner of a fleet and the server. Every request carries ``Authorization: Bearer TOKEN``.

| request | body | answer |
|---|---|---|
| POST /v1/admin/task/start, .../pause, .../end | | TaskControl |
| POST /v1/admin/tokens | IssueTokenRequest | IssuedToken |
| GET /v1/admin/tokens | | TokenList |
| POST /v1/admin/tokens/{token_id}/revoke | | TokenStatus |
| GET /v1/admin/devices | | DeviceList |
| POST /v1/admin/devices/{device_id}/revoke | | EnrolledDevice |
"""

from typing import Literal

from pydantic import Field

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.contract.wire import Message


class TaskControl(Message):
    """What the owner wants of the task. ``ended`` is for good."""

    control: Literal["running", "paused", "ended"]
    reason: str


class IssueTokenRequest(Message):
    """Asks for an enrolment token.

    Attributes:
        max_uses: devices that may come in by it, None for any number.
        expires_after_s: seconds from now after which it lets nobody in, None for never.
        note: for people, e.g. whose phones it is for.
    """

    max_uses: int | None = Field(default=None, ge=1, le=1_000_000_000)
    expires_after_s: float | None = Field(default=None, gt=0, le=10**10)
    note: str = Field(default="", max_length=200)


class TokenStatus(Value):
    """An enrolment token without its text. Times are seconds since the epoch, by the server's clock."""

    token_id: str
    note: str
    state: Literal["valid", "revoked", "expired", "used-up"]
    uses: int
    max_uses: int | None
    created_at_s: float
    expires_at_s: float | None


class IssuedToken(Message):
    """A new enrolment token. Its text is shown here and never again."""

    token: str
    status: TokenStatus


class TokenList(Message):
    """Every token, the oldest first."""

    tokens: tuple[TokenStatus, ...]


class EnrolledDevice(Value):
    """One device and its key. Times are seconds since the epoch, by the server's clock."""

    device_id: str
    name: str
    public_key: str
    token_id: str
    enrolled_at_s: float
    seen_at_s: float
    revoked_at_s: float | None


class DeviceList(Message):
    """Every device, revoked ones included, in the order of enrolment."""

    devices: tuple[EnrolledDevice, ...]
