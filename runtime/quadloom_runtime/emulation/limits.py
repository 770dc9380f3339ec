"""A hard limit on the memory of training steps, enforced by the kernel."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from quadloom_runtime.contract.manifest import Format
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.memory import StepMemoryMeter, process_memory

UNTOUCHED_BYTES: dict[Format, int] = {"executorch": 40_000_000}
"""Address space that an engine reserves when it runs for the first time, and never touches: the buffers and the thread
of the library behind ExecuTorch's matrix products, 20 MB, and what its method allocators round up to."""


@contextmanager
def step_memory_limit(limit_bytes: int, *, member: str, untouched_bytes: int = 0) -> Iterator[None]:
    """Within the block, private writable memory may grow by at most `limit_bytes`. Enter it loaded and idle.

    RLIMIT_DATA counts private writable address space; mapped weights do not count. An allocation beyond it fails, the
    engine reports that, and the process lives on. Only the soft limit moves, so it can be lifted again.

    Args:
        member: named in the error.
        untouched_bytes: allowed beyond the limit, since it is address space and no memory; `check_peak` watches that.

    Raises:
        StepOutOfMemoryError: with member and limit, whichever part of the step ran out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = process_memory().data_bytes + limit_bytes + untouched_bytes
    allowed = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *allowed]), hard))
    try:
        yield
    except StepOutOfMemoryError as error:
        detail = error.detail
    except MemoryError as error:
        detail = str(error) or type(error).__name__
    else:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    raise StepOutOfMemoryError(member=member, limit_bytes=limit_bytes, detail=detail)


def check_peak(meter: StepMemoryMeter, limit_bytes: int, *, member: str) -> None:
    """Hold the measured peak against the limit, where the kernel's leaves room for address space.

    Raises:
        StepOutOfMemoryError: a step took more.
    """
    if meter.peak_bytes > limit_bytes:
        detail = f"it took {meter.peak_bytes / 1e6:.1f} MB"
        raise StepOutOfMemoryError(member=member, limit_bytes=limit_bytes, detail=detail)
