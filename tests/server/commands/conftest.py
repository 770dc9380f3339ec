"""`quadloom serve` as a real process on a real socket, and devices that sign their requests to it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quadloom_runtime.contract.wire import Assignment, CheckInResponse

CAPABILITIES = {"formats": ["onnx"], "memory_limit_bytes": 100_000_000, "threads": 1, "examples": 100}


def command(family: Path, state: Path, *more: str) -> list[str]:
    start = "import sys; from quadloom_runtime.cli import main; sys.exit(main())"
    return [sys.executable, "-c", start, "serve", "--family", str(family), "--state", str(state), *more]


class ServeProcess:
    """A running server; its address is read from what it prints."""

    def __init__(self, device_auth: Callable[..., Any], family: Path, state: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            command(family, state, "--port", "0", *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        line = self.read_until("serving ")
        self.client = httpx.Client(base_url=line.split()[-1], timeout=30)
        self.admin_token = (state / "admin-token").read_text().strip()
        self._device_auth = device_auth

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

    def admin(self, path: str, **message: Any) -> Any:
        """An admin request and its answer."""
        headers = {"authorization": f"Bearer {self.admin_token}"}
        return self.client.post(f"/v1/admin/{path}", json=message, headers=headers).raise_for_status().json()

    def enrol(self, name: str) -> Any:
        """Enrol a device; what comes back signs its requests."""
        auth = self._device_auth(name)
        message = {"name": name, "capabilities": CAPABILITIES, "public_key": auth.public_key}
        message["enrolment_token"] = self.admin("tokens")["token"]
        answer = self.client.post("/v1/devices", json=message, auth=auth)
        auth.device_id = answer.raise_for_status().json()["device_id"]
        return auth

    def check_in(self, device: Any) -> CheckInResponse:
        answer = self.client.post(f"/v1/devices/{device.device_id}/check-in", json={}, auth=device)
        return CheckInResponse.model_validate(answer.raise_for_status().json())

    def assignment(self, device: Any) -> Assignment:
        answer = self.check_in(device)
        assert answer.assignment is not None, answer.reason
        return answer.assignment

    def report(self, device: Any, assignment: Assignment, content: bytes) -> str:
        answer = self.client.put(f"/v1/assignments/{assignment.assignment_id}/update", content=content, auth=device)
        return str(answer.raise_for_status().json()["status"])


@pytest.fixture
def serve(device_auth: Callable[..., Any]) -> Iterator[Callable[..., ServeProcess]]:
    running: list[ServeProcess] = []

    def start(*arguments: Any) -> ServeProcess:
        running.append(ServeProcess(device_auth, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.kill()


@pytest.fixture(name="run_and_fail")
def _run_and_fail() -> Callable[..., str]:
    return run_and_fail


def run_and_fail(*arguments: Any) -> str:
    """Run a server that must refuse to start; returns what it says."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "remedy:" in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr
