"""Children of an emulation: real processes, started, logged and stopped."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quadloom_runtime.emulation import processes as module
from quadloom_runtime.emulation.processes import Processes

PATIENCE_S = 30.0


def python(source: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(source)]


SLEEPER = python("import time; print('ready', flush=True); time.sleep(300)")
DEAF = python(
    """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('ready', flush=True)
    time.sleep(300)
    """
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_what_a_child_writes_lands_in_its_log_and_its_last_line_is_known_after_it_died(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as children:
        child = children.start_command(
            "phone", python("import sys; print('one'); print('two', file=sys.stderr); print(); sys.exit(3)")
        )
        assert child.process.wait(timeout=PATIENCE_S) == 3
    assert child.log == tmp_path / "logs" / "phone.log"
    assert child.last_line() == "two"


def test_a_child_that_wrote_nothing_has_an_empty_last_line(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start_command("quiet", python("pass"))
        child.process.wait(timeout=PATIENCE_S)
    assert child.last_line() == ""


def test_of_an_error_with_a_remedy_the_last_line_is_the_cause(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("inspect", ["inspect", str(tmp_path / "nowhere")])
        assert child.process.wait(timeout=PATIENCE_S) == 1
    assert "remedy: " in child.log.read_text(encoding="utf-8")
    assert child.last_line().startswith("quadloom inspect: no family at")


def test_start_runs_the_quadloom_command_of_this_interpreter(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("version", ["--version"])
        assert child.process.wait(timeout=PATIENCE_S) == 0
    assert child.last_line().startswith("quadloom ")


def test_numeric_libraries_of_a_child_are_told_not_to_add_threads(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start_command("env", python("import os; print(os.environ['OMP_NUM_THREADS'])"))
        child.process.wait(timeout=PATIENCE_S)
    assert child.last_line() == "1"


def test_leaving_the_block_stops_every_child_and_no_other_process(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        with Processes(tmp_path) as children:
            started = [children.start_command(f"device-{index}", SLEEPER) for index in range(3)]
            until(lambda: all(child.last_line() == "ready" for child in started))
        assert not any(is_running(child.process.pid) for child in started)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_children_are_stopped_when_the_block_fails(tmp_path: Path) -> None:
    children = Processes(tmp_path)

    def fail_in_the_block() -> None:
        with children:
            children.start_command("device", SLEEPER)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_in_the_block()
    assert [is_running(child.process.pid) for child in children.children] == [False]


def test_a_child_that_ignores_the_request_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_PATIENCE_S", 0.2)
    with Processes(tmp_path) as children:
        child = children.start_command("deaf", DEAF)
        until(lambda: child.last_line() == "ready")
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("deaf", [False, True], ids=["obedient", "deaf"])
def test_what_a_child_started_itself_is_stopped_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(module, "STOP_PATIENCE_S", 0.5)
    source = f"""
        import subprocess
        inner = subprocess.Popen({DEAF if deaf else SLEEPER!r}, stdout=subprocess.PIPE, text=True)
        inner.stdout.readline()
        print(inner.pid, flush=True)
        inner.wait()
    """
    with Processes(tmp_path) as children:
        child = children.start_command("device", python(source))
        until(lambda: child.last_line() != "")
        inner = int(child.last_line())
        assert is_running(inner)
    # The grandchild is nobody's to wait for here, so its end is seen, not awaited.
    until(lambda: not is_running(inner))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_the_emulator_leaves_no_child_behind(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal sends SIGINT to the whole group, a supervisor SIGTERM to the emulator alone: neither may orphan."""
    emulator = subprocess.Popen(
        python(
            f"""
            import sys, time
            from pathlib import Path
            from quadloom_runtime.emulation.processes import Processes
            with Processes(Path({str(tmp_path)!r})) as children:
                started = [children.start_command(f"device-{{index}}", {SLEEPER!r}) for index in range(2)]
                Path({str(tmp_path / "part")!r}).write_text(" ".join(str(each.process.pid) for each in started))
                Path({str(tmp_path / "part")!r}).rename({str(tmp_path / "pids")!r})
                time.sleep(300)
            """
        ),
        stderr=subprocess.DEVNULL,
    )
    pids: list[int] = []
    try:
        until((tmp_path / "pids").exists)
        pids = [int(word) for word in (tmp_path / "pids").read_text(encoding="utf-8").split()]
        assert all(is_running(pid) for pid in pids)
        emulator.send_signal(number)
        emulator.wait(timeout=PATIENCE_S)
        assert not any(is_running(pid) for pid in pids)
    finally:
        emulator.kill()
        emulator.wait()
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)
