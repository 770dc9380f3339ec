"""Every refusal leaves the server as an `ErrorResponse`, whatever raised it."""

from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_runtime.errors import StorageError
from quadloom_server.errors import RefusedRequestError
from quadloom_server.store.failures import DamagedDatabaseError


def install_refusals(app: FastAPI, *, on_damage: Callable[[DamagedDatabaseError], None]) -> None:
    """Translate the errors of routes, of request validation and of routing itself.

    Args:
        on_damage: told that the database is damaged.
    """

    @app.exception_handler(RefusedRequestError)
    def refused(_request: Request, error: RefusedRequestError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        value = "" if first["type"] in ("missing", "json_invalid") else f", got {str(first.get('input'))[:200]!r}"
        return _response(
            422, "invalid-request", f"{place}: {first['msg']}{value}", "send the message as the wire contract has it"
        )

    @app.exception_handler(HTTPException)
    def unroutable(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, RefusedRequestError):  # FastAPI hides what is raised while it reads a body
            return refusal(error.__cause__)
        codes = {404: "unknown-path", 405: "wrong-method"}
        cause = f"{request.method} {request.url.path}: {error.detail}"
        code = codes.get(error.status_code, "bad-request")
        return _response(error.status_code, code, cause, "see GET /docs for what there is", error.headers)

    @app.exception_handler(StorageError)
    def disk_failed(_request: Request, error: StorageError) -> JSONResponse:
        return _response(507, "storage-failed", error.cause, "try again later; the server's owner must see to its disk")

    @app.exception_handler(DamagedDatabaseError)
    def damaged(_request: Request, error: DamagedDatabaseError) -> JSONResponse:
        on_damage(error)
        return _response(500, "database-damaged", error.cause, "the server's owner must restore its state")

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, DamagedDatabaseError):  # met before any route
            return damaged(request, error)
        if isinstance(error, StorageError):
            return disk_failed(request, error)
        # The traceback is in the log: Starlette raises the error again for it.
        return _response(500, "internal-error", f"{type(error).__name__}: {error}", "see the server's log; try again")


def refusal(error: RefusedRequestError) -> JSONResponse:
    """The answer that a refusal becomes."""
    return _response(
        error.http_status, error.code, error.cause, error.remedy, error.headers, server_time_s=error.server_time_s
    )


def _response(
    status: int,
    code: str,
    cause: str,
    remedy: str,
    headers: Mapping[str, str] | None = None,
    *,
    server_time_s: float | None = None,
) -> JSONResponse:
    body = ErrorResponse(code=code, cause=cause, remedy=remedy, server_time_s=server_time_s)
    return JSONResponse(body.model_dump(mode="json"), status_code=status, headers=headers)
