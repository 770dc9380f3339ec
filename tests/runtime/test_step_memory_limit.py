"""In fresh processes: a limit on memory is no thing to set in the process of the tests."""

import subprocess
import sys

HEADER = """
import resource
import numpy as np
from quadloom_runtime.emulation.limits import step_memory_limit
from quadloom_runtime.errors import StepOutOfMemoryError
MB = 10**6
"""


def run(body: str) -> str:
    found = subprocess.run([sys.executable, "-c", HEADER + body], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_an_allocation_beyond_the_limit_fails_with_member_and_limit_and_the_process_lives_on() -> None:
    printed = run("""
try:
    with step_memory_limit(50 * MB, member="d06-q00"):
        np.ones(80 * MB // 8)
except StepOutOfMemoryError as error:
    print(error.member, error.limit_bytes, error.cause)
np.ones(80 * MB // 8)
print("alive")
""")
    assert printed.startswith("d06-q00 50000000 ")
    assert "a step of member d06-q00 does not fit the limit of 50.0 MB" in printed
    assert printed.endswith("alive")


def test_what_fits_runs_and_the_limit_is_lifted_after() -> None:
    printed = run("""
before = resource.getrlimit(resource.RLIMIT_DATA)
with step_memory_limit(50 * MB, member="d01-q00"):
    np.ones(40 * MB // 8)
    assert resource.getrlimit(resource.RLIMIT_DATA) != before
print(resource.getrlimit(resource.RLIMIT_DATA) == before, np.ones(200 * MB // 8).nbytes)
""")
    assert printed == "True 200000000"


def test_memory_from_before_does_not_count_against_the_limit() -> None:
    printed = run("""
loaded = np.ones(200 * MB // 8)
with step_memory_limit(50 * MB, member="d01-q00"):
    print(np.ones(40 * MB // 8).nbytes)
""")
    assert printed == "40000000"


def test_address_space_that_nobody_touches_is_allowed_beyond_the_limit_and_memory_is_still_measured() -> None:
    printed = run("""
import mmap
from quadloom_runtime.emulation.limits import check_peak
from quadloom_runtime.memory import StepMemoryMeter
meter = StepMemoryMeter()
try:
    with step_memory_limit(50 * MB, member="d01-q00", untouched_bytes=100 * MB):
        with meter:
            reserved, used = mmap.mmap(-1, 60 * MB, flags=mmap.MAP_PRIVATE), np.ones(20 * MB // 8)
        check_peak(meter, 50 * MB, member="d01-q00")
        print("reserved")
        with meter:
            used = np.ones(51 * MB // 8)
        check_peak(meter, 50 * MB, member="d01-q00")
except StepOutOfMemoryError as error:
    print(error.limit_bytes, error.detail)
""")
    lines = printed.splitlines()
    assert lines[0] == "reserved"
    assert lines[1].startswith("50000000 it took 7")


def test_the_error_of_an_engine_gets_member_and_limit_too() -> None:
    printed = run("""
try:
    with step_memory_limit(50 * MB, member="d03-q01"):
        raise StepOutOfMemoryError(member="?", limit_bytes=None, detail="std::bad_alloc in node_7")
except StepOutOfMemoryError as error:
    print(error.member, error.limit_bytes, "node_7" in error.cause)
""")
    assert printed == "d03-q01 50000000 True"


def test_other_errors_pass_and_the_limit_is_lifted() -> None:
    printed = run("""
try:
    with step_memory_limit(50 * MB, member="d03-q01"):
        raise KeyError("other")
except KeyError:
    print(np.ones(200 * MB // 8).nbytes)
""")
    assert printed == "200000000"


def test_an_allocation_of_many_small_pieces_is_bounded_too() -> None:
    printed = run("""
pieces = []
try:
    with step_memory_limit(50 * MB, member="d03-q01"):
        while True:
            pieces.append(np.ones(1000))
except StepOutOfMemoryError:
    held = len(pieces) * 8000 / MB
    print(35 < held < 51)
""")
    assert printed == "True"
