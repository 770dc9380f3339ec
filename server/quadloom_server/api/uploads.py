"""Receives updates: streamed to a file each, and only a few looked into at a time, however many come at once."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from quadloom_runtime.contract.wire import ReportResponse
from quadloom_runtime.crash_points import reach
from quadloom_server.rounds.machine import Rounds

CHECKED_AT_ONCE = 2
"""A check holds one whole update in memory."""


class UpdateReceiver:
    """Takes updates in for one task."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        # Threads of its own: checks that wait for their turn must not keep check-ins from theirs, and the memory that
        # the allocator keeps for each thread that ever held an update stays small.
        self._checks = ThreadPoolExecutor(CHECKED_AT_ONCE, thread_name_prefix="quadloom-check")

    async def receive(self, assignment_id: str, request: Request) -> ReportResponse:
        """Stream the body to a file and report it.

        Raises:
            RefusedRequestError: no such assignment, or the body is cut off by a limit.
            StorageError: the disk is full.
        """
        with self._rounds.state.uploads.receiving() as growing:
            async for chunk in request.stream():
                await run_in_threadpool(growing.write, chunk)
                reach("upload-half-received")
            upload = await run_in_threadpool(growing.finish)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._checks, self._rounds.report_update, assignment_id, upload)
