"""The HTTP application: routes over the rounds, and the clock that lets deadlines pass."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from quadloom_runtime import __version__
from quadloom_runtime.adapter_file import largest_tensors_bytes
from quadloom_runtime.contract.status import TaskStatus
from quadloom_runtime.contract.wire import ErrorResponse
from quadloom_server.api.admin import admin_routes
from quadloom_server.api.authentication import Authentication
from quadloom_server.api.blobs import BlobCatalogue, blob_routes
from quadloom_server.api.body_limit import BodyLimit
from quadloom_server.api.browser_device import INSTALLED_PACKAGES, browser_device_routes
from quadloom_server.api.devices import device_routes
from quadloom_server.api.rate_limit import AddressRate, DeviceRate
from quadloom_server.api.refusals import install_refusals
from quadloom_server.api.replays import OnceOnly
from quadloom_server.api.status_page import status_page
from quadloom_server.limits import Limits
from quadloom_server.rounds.machine import Rounds
from quadloom_server.store.failures import DamagedDatabaseError
from quadloom_server.token_buckets import TokenBuckets
from quadloom_server.trust.authentication import RequestAuthenticator
from quadloom_server.trust.nonces import NonceLog

TICK_S = 0.25
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse, "description": "Refused: code, cause and remedy."} for code in ("4XX", "5XX", 422)
}
"""FastAPI would document a 422 of its own kind if this one were not named."""
logger = logging.getLogger("quadloom_server")


def create_app(
    rounds: Rounds,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    browser_packages: Path = INSTALLED_PACKAGES,
    tick: Callable[[], None] | None = None,
    on_damage: Callable[[DamagedDatabaseError], None] = lambda _error: None,
) -> FastAPI:
    """The application over one task.

    Args:
        rounds: the task; started by the caller.
        limits: what one client may take.
        browser_packages: libraries of the page that makes a browser a device.
        tick: called a few times a second, in a thread; None for the rounds' own.
        on_damage: told when a request finds the database damaged.
    """

    @asynccontextmanager
    async def ticking(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_keep_ticking(tick or rounds.tick))
        yield
        task.cancel()

    app = FastAPI(title="Quadloom server", version=__version__, lifespan=ticking, responses=REFUSALS)
    quick_sessions = rounds.state.quick_sessions
    authenticator = RequestAuthenticator(
        sessions=quick_sessions, nonces=NonceLog(quick_sessions, rounds.state.writing), clock=rounds.clock
    )
    # From the inside out: what comes last meets a request first.
    app.add_middleware(OnceOnly, authenticator=authenticator)
    app.add_middleware(DeviceRate, buckets=TokenBuckets(limits.requests_per_minute, clock=time.monotonic))
    app.add_middleware(Authentication, authenticator=authenticator, admin_token=rounds.state.admin_token)
    app.add_middleware(AddressRate, buckets=TokenBuckets(limits.unsigned_requests_per_minute, clock=time.monotonic))
    app.add_middleware(BodyLimit, limits=limits, update_bytes=largest_tensors_bytes(rounds.family.manifest.parameters))
    install_refusals(app, on_damage=on_damage)
    app.include_router(device_routes(rounds))
    app.include_router(admin_routes(rounds))
    app.include_router(blob_routes(BlobCatalogue(rounds.family, rounds.state)))
    app.include_router(browser_device_routes(browser_packages))

    @app.get("/v1/task")
    def task() -> TaskStatus:
        return rounds.task_status()

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return status_page(rounds.family.manifest.model.source, rounds.task_status())

    return app


async def _keep_ticking(tick: Callable[[], None]) -> None:
    while True:
        try:
            await run_in_threadpool(tick)
        except Exception:  # a database that is unavailable for a moment must not stop time for good
            logger.exception("a deadline could not be checked")
        await asyncio.sleep(TICK_S)
