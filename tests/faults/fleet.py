"""A real server and real devices under a schedule of faults; whoever dies is started again."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.faults import tiny_family
from tests.faults.link import Link, LinkFault
from tests.faults.schedule import DEVICES, Schedule

from quadloom_runtime.crash_points import VARIABLE

ROUNDS = 2
RUN_TIMEOUT_S = 120.0
POLL_S = 0.03
TOKEN_NAME = "enrolment-token"
MEMORY_LIMITS = {"deep": "300MB", "shallow": "50MB"}
EXAMPLES = {"deep": 24, "shallow": 16}


class FleetFailureError(AssertionError):
    """A run that did not end as it must; the message has the schedule and what every process said."""


@dataclass
class Supervised:
    """A process that is started again when it was killed, each time with the next crash point of its list."""

    name: str
    command: list[str]
    log: Path
    crashes: list[str]
    died_at: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    _armed: str | None = None

    def start(self) -> None:
        """Begin a life."""
        self._armed = self.crashes.pop(0) if self.crashes else None
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        if self._armed is not None:
            environment[VARIABLE] = self._armed
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def exit_code(self) -> int | None:
        """None while it runs. A process that died of its crash point is running again."""
        assert self.process is not None
        code = self.process.poll()
        if code == -signal.SIGKILL and self._armed is not None:
            self.died_at.append(self._armed.partition(":")[0])
            self.start()
            return None
        return code

    def stop(self) -> int:
        """Ask it to end; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class FleetRun:
    """What a finished run left behind.

    Attributes:
        family: what was served.
        state: the server's state folder.
        events: event log of each device.
        died_at: the crash points that really killed a process.
        cuts: the connections that really broke.
    """

    family: Path
    state: Path
    events: dict[str, Path]
    died_at: tuple[str, ...]
    cuts: tuple[LinkFault, ...]


def run_fleet(schedule: Schedule, *, family: Path, work: Path) -> FleetRun:
    """Train `ROUNDS` rounds under the schedule.

    Raises:
        FleetFailureError: a process ended in another way than by its crash point or with success, or too late.
    """
    work.mkdir(parents=True)
    link = Link(schedule.link_faults)
    server = _server(schedule, family, work)
    devices = [_device(name, schedule, link.url, work) for name in DEVICES]
    everyone = [server, *devices]
    try:
        server.start()
        _let_devices_in(server, work)
        for each in devices:
            each.start()
        _until_devices_are_done(server, devices, link)
        # Whatever the last crash point of the server was, it now ends in peace or by it.
        code = server.stop()
        if code not in (0, -signal.SIGKILL):
            raise FleetFailureError(f"the server ended with status {code}")
    except FleetFailureError as error:
        logs = "\n".join(f"--- {each.name}\n{each.log.read_text(errors='replace')[-3000:]}" for each in everyone)
        raise FleetFailureError(f"{schedule}\n{error}\n{logs}") from None
    finally:
        link.close()
        for each in everyone:
            each.kill()
    died_at = tuple(point for each in everyone for point in each.died_at)
    return FleetRun(
        family, work / "state", {name: work / f"{name}.jsonl" for name in DEVICES}, died_at, tuple(link.cuts)
    )


def _let_devices_in(server: Supervised, work: Path) -> None:
    """Issue a token for exactly so many devices as there are, however often the server dies meanwhile."""
    give_up_at_s = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < give_up_at_s:
        time.sleep(POLL_S)
        _check_alive(server)
        port = _port(server)
        if port is None:
            continue
        admin_token = (work / "state" / "admin-token").read_text().strip()
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/admin/tokens",
                json={"max_uses": len(DEVICES)},
                headers={"Authorization": f"Bearer {admin_token}"},
            )
            (work / TOKEN_NAME).write_text(answer.raise_for_status().json()["token"])
            return
    raise FleetFailureError("no enrolment token could be issued")


def _check_alive(server: Supervised) -> None:
    code = server.exit_code()
    if code is not None:
        raise FleetFailureError(f"the server ended with status {code}")


def _until_devices_are_done(server: Supervised, devices: list[Supervised], link: Link) -> None:
    give_up_at_s = time.monotonic() + RUN_TIMEOUT_S
    running = list(devices)
    while running:
        time.sleep(POLL_S)
        _check_alive(server)
        link.server_port = _port(server)
        for device in list(running):
            code = device.exit_code()
            if code == 0:
                running.remove(device)
            elif code is not None:
                raise FleetFailureError(f"{device.name} ended with status {code}")
        if time.monotonic() > give_up_at_s:
            raise FleetFailureError(f"after {RUN_TIMEOUT_S:g} s {', '.join(each.name for each in running)} still runs")


def _port(server: Supervised) -> int | None:
    """Where the server listened last; a connection to one that is gone just fails."""
    lines = [line for line in server.log.read_text(errors="replace").splitlines() if line.startswith("serving ")]
    return int(lines[-1].rsplit(":", 1)[1]) if lines else None


def _server(schedule: Schedule, family: Path, work: Path) -> Supervised:
    options = {
        "--family": family,
        "--state": work / "state",
        "--port": 0,
        "--rounds": ROUNDS,
        "--min-devices": len(DEVICES),
        "--retry-after-s": 0.1,
        "--retry-after-accepted-s": 0.05,
        "--round-deadline-s": 10 * RUN_TIMEOUT_S,
        "--local-epochs": 2,
    }
    return Supervised(
        "server",
        [*[*_command("serve", options), "--keep-updates"], "--keep-updates"],
        work / "server.log",
        list(schedule.crashes.get("server", ())),
    )


def _device(name: str, schedule: Schedule, url: str, work: Path) -> Supervised:
    data = tiny_family.write_examples(work / f"{name}-data.jsonl", seed=len(name), examples=EXAMPLES[name])
    options = {
        "--server": url,
        "--data": data,
        "--name": name,
        "--cache": work / name,
        "--enrolment-token-file": work / TOKEN_NAME,
        "--events": work / f"{name}.jsonl",
        "--memory-limit": MEMORY_LIMITS[name],
        "--threads": 1,
        "--checkpoint-s": 0,
        "--patience-s": RUN_TIMEOUT_S,
    }
    return Supervised(name, _command("device", options), work / f"{name}.log", list(schedule.crashes.get(name, ())))


def _command(subcommand: str, options: dict[str, object]) -> list[str]:
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "quadloom_runtime", subcommand, *words]
