"""A real server, and Java devices as real processes that speak with it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from tests.faults.link import Link, LinkFault
from tests.faults.supervised import Supervised, quadloom

PATIENCE_S = 300.0
POLL_S = 0.05
Event = dict[str, Any]


class ServedTask:
    """`quadloom serve` behind a link that survives its restarts; a context that ends it."""

    def __init__(
        self,
        family: Path,
        work: Path,
        *,
        options: dict[str, object] | None = None,
        flags: tuple[str, ...] = (),
        faults: tuple[LinkFault, ...] = (),
        crashes: tuple[str, ...] = (),
    ) -> None:
        self.family, self.work, self.state = family, work, work / "server"
        self.link = Link(faults)
        given = {
            "--family": family,
            "--state": self.state,
            "--port": 0,
            "--rounds": 3,
            "--retry-after-s": 0.1,
            "--retry-after-accepted-s": 0.05,
            "--retry-after-rejected-s": 0.1,
            "--local-epochs": 2,
        }
        command = [*quadloom("serve", {**given, **(options or {})}), *flags]
        self.server = Supervised("server", command, work / "server.log", [*crashes])

    def __enter__(self) -> "ServedTask":
        self.server.start()
        self.wait_for_port()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.link.close()

    def wait_for_port(self) -> None:
        """Until the server listens, or listens again."""
        give_up_at_s = time.monotonic() + PATIENCE_S
        while self._port() is None:
            assert self.server.exit_code() is None, self.server.said()
            assert time.monotonic() < give_up_at_s, self.server.said()
            time.sleep(POLL_S)
        self.link.server_port = self._port()

    def token(self) -> str:
        """An enrolment token for one device."""
        answer = httpx.post(
            f"http://127.0.0.1:{self.link.server_port}/v1/admin/tokens",
            json={"max_uses": 1},
            headers={"Authorization": f"Bearer {(self.state / 'admin-token').read_text().strip()}"},
        )
        return str(answer.raise_for_status().json()["token"])

    def java_device(self, class_path: str, data: Path, **settings: object) -> "JavaDevice":
        """Start a Java device; given again with the same folder, it goes on where the last one was."""
        fields = {
            "server": self.link.url,
            "name": "java",
            "folder": str(self.work / "java"),
            "data": str(data),
            "memory_limit_bytes": 2 << 30,
            "step_command": [sys.executable, str(Path(__file__).with_name("step_process.py")), str(self.family)],
            **settings,
        }
        path = self.work / "java-settings.json"
        path.write_text(json.dumps(fields))
        return JavaDevice(
            subprocess.Popen(
                ["java", "-Xmx256m", "-cp", class_path, "org.quadloom.core.DeviceProgram", str(path)],
                stdout=subprocess.PIPE,
                text=True,
            ),
            self,
        )

    def python_device(self, data: Path, *, options: dict[str, object]) -> list[Event]:
        """Let a Python device take part until the task is finished; what it recorded."""
        token, events = self.work / "token", self.work / "events.jsonl"
        token.write_text(self.token())
        given = {
            "--server": self.link.url,
            "--data": data,
            "--name": "python",
            "--cache": self.work / "python",
            "--enrolment-token-file": token,
            "--events": events,
            "--memory-limit": "2GB",
            "--threads": 1,
            "--formats": "onnx",
        }
        subprocess.run(quadloom("device", {**given, **options}), capture_output=True, timeout=PATIENCE_S, check=True)
        return [json.loads(line) for line in events.read_text().splitlines()]

    def _port(self) -> int | None:
        lines = [line for line in self.server.said().splitlines() if line.startswith("serving ")]
        lives = len(self.server.died_at) + 1
        return int(lines[-1].rsplit(":", 1)[1]) if len(lines) >= lives else None


class JavaDevice:
    """A running device; its server is started again as often as a crash point ends it."""

    def __init__(self, process: "subprocess.Popen[str]", task: ServedTask) -> None:
        self._process, self._task = process, task

    def events_until(self, kind: str) -> list[Event]:
        """What it says until one of this kind; then it is ended."""
        said: list[Event] = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(json.loads(line))
            if said[-1]["event"] == kind:
                break
        self._process.kill()
        self._process.communicate()
        return said

    def events(self) -> tuple[int, list[Event]]:
        """Wait for its end: the exit status and what it said."""
        give_up_at_s = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            self._task.server.exit_code()
            self._task.wait_for_port()
            if time.monotonic() > give_up_at_s:
                self._process.kill()
            time.sleep(POLL_S)
        printed = self._process.communicate()[0]
        return self._process.returncode, [json.loads(line) for line in printed.splitlines()]


def losses(events: list[Event]) -> list[tuple[int, int, float]]:
    """Round, step and loss of every step."""
    return [(each["round_index"], each["step"], each["loss"]) for each in events if each["event"] == "step"]


def lines(events: list[Event], kind: str) -> list[str]:
    """What was said of one kind."""
    return [each["line"] for each in events if each["event"] == kind]
