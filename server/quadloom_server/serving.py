"""Runs the HTTP application on a socket until it is told to stop."""

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from quadloom_runtime.errors import QuadloomError
from quadloom_server.api.app import create_app
from quadloom_server.limits import Limits
from quadloom_server.patience import protocol_with_patience
from quadloom_server.rounds.background import BackgroundWorker
from quadloom_server.rounds.machine import Rounds
from quadloom_server.store.failures import DamagedDatabaseError
from quadloom_server.tls import Certificate

GRACEFUL_SHUTDOWN_S = 5
FINISHED_GRACE_S = 30.0
"""How long a finished server waits for devices that have not come back to hear it."""


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes a free one.

    Raises:
        QuadloomError: the port is in use, or the host is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. asyncio sets it only on sockets that name their protocol, which accepted ones do not:
        # without it every answer in two parts waits 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise QuadloomError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            remedy="stop the program that uses the port, or choose another --port (0 takes a free one) or --host",
        ) from None


def run_server(
    rounds: Rounds,
    *,
    listener: socket.socket,
    certificate: Certificate | None,
    background: BackgroundWorker,
    limits: Limits,
    browser_packages: Path,
    exit_when_finished: bool,
) -> None:
    """Serve until SIGINT or SIGTERM, or until the task is finished if so wanted.

    Args:
        certificate: what to serve TLS with, None for plain HTTP.
        browser_packages: libraries of the page that makes a browser a device.

    Raises:
        Exception: what made a round impossible to close, or the database unusable, such as a `QuadloomError`.
    """
    finished = _WatchFinished(rounds) if exit_when_finished else None

    def tick() -> None:
        if background.failure is not None:
            server.should_exit = True
            return
        try:
            rounds.tick()
            if finished is not None and finished.is_over():
                server.should_exit = True
        except DamagedDatabaseError as error:
            end_with(error)

    def end_with(error: DamagedDatabaseError) -> None:
        background.failure = background.failure or error
        server.should_exit = True

    config = uvicorn.Config(
        create_app(rounds, limits=limits, browser_packages=browser_packages, tick=tick, on_damage=end_with),
        http=protocol_with_patience(header_timeout_s=limits.header_timeout_s, read_timeout_s=limits.read_timeout_s),
        limit_concurrency=limits.max_connections,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    server = uvicorn.Server(config)
    # uvicorn raises a signal again once it has shut down; without these, that would end the process as if killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    rounds.start()
    try:
        server.run(sockets=[listener])
    finally:
        background.close()
    if background.failure is not None:
        raise background.failure


class _WatchFinished:
    """Knows when a finished task has nothing left to tell."""

    def __init__(self, rounds: Rounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._rounds = rounds
        self._clock = clock
        self._finished_at_s: float | None = None

    def is_over(self) -> bool:
        """Finished, and every device was told or has had its time to come back."""
        if self._finished_at_s is None:
            if not self._rounds.is_finished():
                return False
            self._finished_at_s = self._clock()
        return self._rounds.every_device_knows() or self._clock() - self._finished_at_s >= FINISHED_GRACE_S
