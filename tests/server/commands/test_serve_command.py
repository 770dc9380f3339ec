"""`quadloom serve` as a real process on a real socket."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from quadloom_runtime.contract.wire import Assignment, CheckInResponse
from quadloom_runtime.family_folder import load_manifest
from quadloom_server.adapters import AdapterFolders
from quadloom_server.family import open_family

CAPABILITIES = {"formats": ["onnx"], "memory_limit_bytes": 100_000_000, "threads": 1, "examples": 100}
Content = Callable[..., bytes]


def command(family: Path, state: Path, *more: str) -> list[str]:
    start = "import sys; from quadloom_runtime.cli import main; sys.exit(main())"
    return [sys.executable, "-c", start, "serve", "--family", str(family), "--state", str(state), *more]


class ServeProcess:
    """A running server; its address is read from what it prints."""

    def __init__(self, family: Path, state: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            command(family, state, "--port", "0", *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        line = self.read_until("serving ")
        self.client = httpx.Client(base_url=line.split()[-1], timeout=30)

    def read_until(self, words: str) -> str:
        """The next line that has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if words in line:
                return line.rstrip()
        raise AssertionError(f"the server ended before {words!r}: {self.lines}")

    def end(self) -> int:
        """Wait for the end and keep what it still printed."""
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=60)
        self.client.close()

    def enrol(self, name: str) -> str:
        answer = self.client.post("/v1/devices", json={"name": name, "capabilities": CAPABILITIES})
        return str(answer.raise_for_status().json()["device_id"])

    def check_in(self, device_id: str) -> CheckInResponse:
        answer = self.client.post(f"/v1/devices/{device_id}/check-in", json={})
        return CheckInResponse.model_validate(answer.raise_for_status().json())

    def assignment(self, device_id: str) -> Assignment:
        answer = self.check_in(device_id)
        assert answer.assignment is not None, answer.reason
        return answer.assignment

    def report(self, assignment: Assignment, content: bytes) -> str:
        answer = self.client.put(f"/v1/assignments/{assignment.assignment_id}/update", content=content)
        return str(answer.raise_for_status().json()["status"])


@pytest.fixture
def serve() -> Iterator[Callable[..., ServeProcess]]:
    running: list[ServeProcess] = []

    def start(*arguments: Any) -> ServeProcess:
        running.append(ServeProcess(*arguments))
        return running[-1]

    yield start
    for each in running:
        each.kill()


def change(family: Path, assignment: Assignment, value: float, update_content: Content, *, examples: int) -> bytes:
    rows = load_manifest(family).trained_parameters(assignment.member.depth)
    return update_content({row.name: np.full(row.shape, value, np.float32) for row in rows}, examples=examples)


def run_and_fail(*arguments: Any) -> str:
    """Run a server that must refuse to start; returns what it says."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "remedy:" in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_server_killed_in_the_middle_of_a_round_continues_it_and_counts_each_update_once(
    serve: Callable[..., ServeProcess], family_folder: Path, tmp_path: Path, update_content: Content
) -> None:
    options = ("--min-devices", "2", "--rounds", "1")
    first = serve(family_folder, tmp_path / "state", *options)
    mine, other = first.enrol("mine"), first.enrol("other")
    work, open_work = first.assignment(mine), first.assignment(other)
    content = change(family_folder, work, 1.0, update_content, examples=30)
    assert first.report(work, content) == "accepted"
    task_id = first.client.get("/v1/task").json()["task_id"]
    first.process.send_signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL

    second = serve(family_folder, tmp_path / "state", *options)
    assert second.client.get("/v1/task").json()["task_id"] == task_id
    assert second.report(work, content) == "duplicate"
    assert second.assignment(other).assignment_id == open_work.assignment_id
    assert second.report(open_work, change(family_folder, open_work, 5.0, update_content, examples=10)) == "accepted"
    second.read_until("finished: all 1 rounds")

    adapters = AdapterFolders(tmp_path / "state", open_family(family_folder))
    before, after = adapters.read(0), adapters.read(1)
    for name, value in before.items():
        np.testing.assert_allclose(after[name] - value, 2.0, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(
    serve: Callable[..., ServeProcess], family_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    server = serve(family_folder, tmp_path / "state")
    assert server.client.get("/healthz").status_code == 200
    server.process.send_signal(number)
    assert server.end() == 0
    assert server.lines[-1] == "stopped"
    assert "Traceback" not in "\n".join(server.lines)


def test_a_finished_server_ends_once_every_device_was_told(
    serve: Callable[..., ServeProcess], family_folder: Path, tmp_path: Path, update_content: Content
) -> None:
    server = serve(family_folder, tmp_path / "state", "--rounds", "1", "--exit-when-finished")
    device, waiting = server.enrol("device"), server.enrol("waiting")
    work = server.assignment(device)
    server.report(work, change(family_folder, work, 0.5, update_content, examples=1))
    server.read_until("finished: all 1 rounds")
    assert server.check_in(device).task_state == "finished"
    assert server.check_in(waiting).task_state == "finished"
    assert server.end() == 0
    assert (tmp_path / "state/adapters/latest/adapter_model.safetensors").is_file()


def test_training_settings_of_the_command_line_reach_the_device(
    serve: Callable[..., ServeProcess], family_folder: Path, tmp_path: Path
) -> None:
    options = "--optimizer sgd --learning-rate 0.5 --local-epochs 3 --max-steps 9 --clip-norm 0 --schedule linear"
    server = serve(family_folder, tmp_path / "state", *options.split())
    settings = server.assignment(server.enrol("device")).settings
    assert (settings.optimizer, settings.learning_rate, settings.epochs) == ("sgd", 0.5, 3)
    assert (settings.max_steps, settings.clip_norm, settings.schedule) == (9, None, "linear")
    assert settings.head_learning_rate == 1e-3


def test_a_port_in_use_is_named(family_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in run_and_fail(
            family_folder, tmp_path / "state", "--port", port
        )


def test_a_second_server_on_one_state_is_refused(
    serve: Callable[..., ServeProcess], family_folder: Path, tmp_path: Path
) -> None:
    serve(family_folder, tmp_path / "state")
    assert "another server uses" in run_and_fail(family_folder, tmp_path / "state", "--port", "0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rounds", "0"], "rounds is 0"),
        (["--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--target-accuracy", "0.8"], "--target-accuracy 0.8 needs held-out data"),
        (["--eval-data", "held-out.jsonl"], "lacks an evaluation graph"),
        (["--seed", "-1"], "seed is -1"),
        (["--round-deadline-s", "inf"], "round_deadline_s is inf"),
        (["--port", "99999"], "port 99999"),
        (["--host", "203.0.113.1"], "203.0.113.1"),
    ],
)
def test_options_out_of_range_are_refused_by_value(
    family_folder: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in run_and_fail(family_folder, tmp_path / "state", *options)


def test_a_damaged_family_is_not_served(family_folder: Path, tmp_path: Path) -> None:
    (family_folder / "tokenizer/tokenizer.json").write_text("altered")
    assert "tokenizer/tokenizer.json" in run_and_fail(family_folder, tmp_path / "state")
