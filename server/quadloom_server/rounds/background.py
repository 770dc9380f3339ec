"""One thread for what takes long: closing rounds and evaluating. Jobs run in order."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWorker:
    """Runs jobs one after the other and keeps the first failure, which must end the server: its round cannot close."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quadloom-background")
        self.failure: BaseException | None = None

    def __call__(self, job: Callable[[], None]) -> None:
        """Queue a job."""
        self._executor.submit(job).add_done_callback(self._keep_failure)

    def close(self) -> None:
        """Drop the jobs that have not begun and wait for the one that has."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _keep_failure(self, done: Future[None]) -> None:
        if not done.cancelled() and self.failure is None:
            self.failure = done.exception()
