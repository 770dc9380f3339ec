"""A hard limit on the memory of training steps, enforced by the kernel."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.memory import process_memory


@contextmanager
def step_memory_limit(limit_bytes: int | None, *, idle_data_bytes: int, member: str) -> Iterator[None]:
    """Within the block, private writable memory may exceed `idle_data_bytes` by at most `limit_bytes`.

    RLIMIT_DATA counts private writable address space; mapped weights do not count. An allocation beyond it fails, the
    engine reports that, and the process lives on. Only the soft limit moves, so it can be lifted again.

    Args:
        idle_data_bytes: `ProcessMemory.data_bytes` of the loaded process before its first step: memory that an engine
            kept from earlier steps counts against the limit.
        member: named in the error.

    Raises:
        StepOutOfMemoryError: with member and limit, whichever part of the step ran out.
    """
    if limit_bytes is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (idle_data_bytes + limit_bytes, hard))
    try:
        yield
    except StepOutOfMemoryError as error:
        raise StepOutOfMemoryError(member=member, limit_bytes=limit_bytes, detail=error.detail) from None
    except MemoryError as error:
        raise StepOutOfMemoryError(member=member, limit_bytes=limit_bytes, detail=str(error) or "MemoryError") from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def idle_data_bytes() -> int:
    """Private writable memory of this process now."""
    return process_memory().data_bytes
