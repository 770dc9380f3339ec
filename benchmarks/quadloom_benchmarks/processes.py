"""Runs of a benchmark in processes of their own, several at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from quadloom_runtime.errors import QuadloomError

Found = TypeVar("Found")


def run_each(
    function: Callable[..., Found], arguments: Sequence[tuple[Any, ...]], *, jobs: int, remedy: str
) -> list[Found]:
    """``function(*each)`` for each of the arguments, `jobs` at a time, results in their order; 1 job runs right here.

    Args:
        function: and its arguments and results: anything that can be pickled.
        remedy: what to do if a process ends before its run did.

    Raises:
        QuadloomError: a number of jobs below 1, or such an end; what `function` raises. Nothing new is begun then.
    """
    if jobs < 1:
        raise QuadloomError(f"--jobs is {jobs}", remedy="give --jobs a value of at least 1")
    if jobs == 1:
        return [function(*each) for each in arguments]
    # Spawned: a forked process would share the state of the engines' threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(function, *each) for each in arguments]
        try:
            return [each.result() for each in waiting]
        except BrokenProcessPool:
            raise QuadloomError(f"a process of --jobs {jobs} ended before its run did", remedy=remedy) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
