"""What the server's answers mean: a message, a refusal, or that it is worth trying again."""

from typing import TypeVar

import httpx
from pydantic import ValidationError

from quadloom_runtime.contract.wire import ErrorResponse, Message
from quadloom_runtime.device.retry import TryAgainError
from quadloom_runtime.errors import QuadloomError

M = TypeVar("M", bound=Message)
LONGEST_RETRY_AFTER_S = 60.0
TEMPORARY = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


class RefusedError(QuadloomError):
    """The server answered and said no.

    Args:
        status: HTTP status.
        error: what the server wrote.
    """

    def __init__(self, status: int, error: ErrorResponse) -> None:
        super().__init__(f"the server refused ({status} {error.code}): {error.cause}", remedy=error.remedy)
        self.status = status
        self.code = error.code


def raise_for(response: httpx.Response) -> None:
    """Turn a refusal into its error.

    Raises:
        TryAgainError: the server cannot answer just now.
        RefusedError: it says no.
    """
    try:
        error = ErrorResponse.model_validate_json(response.content)
    except ValidationError:
        error = ErrorResponse(
            code="unknown", cause=response.text[:200] or "no explanation", remedy="check that --server is Quadloom's"
        )
    if response.status_code >= 500 or response.status_code in TEMPORARY:
        raise TryAgainError(f"HTTP {response.status_code}: {error.cause}", after_s=_retry_after_s(response))
    raise RefusedError(response.status_code, error)


def _retry_after_s(response: httpx.Response) -> float:
    """What the server asks for, within reason; a proxy may also send a date, which is not needed here."""
    stated = response.headers.get("retry-after", "")
    return min(float(stated), LONGEST_RETRY_AFTER_S) if stated.isdecimal() else 0.0


def parse_answer(response: httpx.Response, answer: type[M]) -> M:
    """The message in an answer.

    Raises:
        QuadloomError: it is another one.
    """
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise QuadloomError(
            f"the server's answer is not a {answer.__name__}: {error}",
            remedy="run the same Quadloom release on server and device",
        ) from None
