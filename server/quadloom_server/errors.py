"""Refusals: errors that a client caused and that an HTTP status tells it."""

from collections.abc import Mapping

from quadloom_runtime.errors import QuadloomError


class RefusedRequestError(QuadloomError):
    """A request that the server does not serve.

    Args:
        code: stable name of the refusal, for programs.
        http_status: 400 or above.
        headers: further headers of the answer.
        server_time_s: the server's clock, for a client whose own is wrong.
    """

    def __init__(
        self,
        cause: str,
        *,
        remedy: str,
        code: str,
        http_status: int,
        headers: Mapping[str, str] | None = None,
        server_time_s: float | None = None,
    ) -> None:
        super().__init__(cause, remedy=remedy)
        self.server_time_s = server_time_s
        self.code = code
        self.http_status = http_status
        self.headers = dict(headers or {})


class UnknownDeviceError(RefusedRequestError):
    """A device id that this server never gave."""

    def __init__(self, device_id: str) -> None:
        super().__init__(
            f"no device has the id {device_id!r}", remedy="enrol again", code="unknown-device", http_status=401
        )


class UnknownAssignmentError(RefusedRequestError):
    """An assignment id that this server never gave."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(
            f"no assignment has the id {assignment_id!r}",
            remedy="drop it and check in again",
            code="unknown-assignment",
            http_status=404,
        )


class RevokedDeviceError(RefusedRequestError):
    """A device that the owner of the fleet has shut out."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the device {name!r} is revoked",
            remedy="ask the owner of the fleet; a new key, under a new token, would be another device",
            code="revoked-device",
            http_status=403,
        )


class NotYourAssignmentError(RefusedRequestError):
    """An assignment that another device holds."""

    def __init__(self, assignment_id: str) -> None:
        super().__init__(
            f"the assignment {assignment_id!r} is another device's",
            remedy="report the assignments that this device was given, and no others",
            code="not-your-assignment",
            http_status=403,
        )
