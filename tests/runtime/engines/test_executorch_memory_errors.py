"""Which errors of ExecuTorch mean that a smaller member is needed."""

import pytest

from quadloom_runtime.engines.executorch_method import is_failed_allocation

REFUSED = (
    MemoryError("Unable to allocate 12.0 KiB for an array with shape (384, 8) and data type float32"),
    MemoryError("std::bad_alloc"),
    RuntimeError("loading method forward failed with error 0x21"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 12288 bytes. Error code 12 (Cannot allocate memory)"
    ),
)
OTHER = (
    RuntimeError("method->set_input() for method 'forward' failed with error 0x12"),
    RuntimeError("no such method"),
)


@pytest.mark.parametrize("error", REFUSED, ids=str)
def test_refused_memory_is_recognised_whoever_asked_for_it(error: Exception) -> None:
    assert is_failed_allocation(error)


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_failed_allocation(error)
