"""A real server and real devices on one machine, and the run of a schedule of faults with them."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.faults import tiny_family
from tests.faults.link import Link, LinkFault
from tests.faults.schedule import DEVICES, Schedule
from tests.faults.supervised import Supervised, quadloom

ROUNDS = 2
RUN_TIMEOUT_S = 120.0
POLL_S = 0.03
TOKEN_NAME = "enrolment-token"
MEMORY_LIMITS = {"deep": "300MB", "shallow": "50MB"}
EXAMPLES = {"deep": 24, "shallow": 16}


class FleetFailureError(AssertionError):
    """A run that did not end as it must; the message has the schedule and what every process said."""


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


@dataclass(frozen=True)
class Ways:
    """Options of the command line that a run has beside, or instead of, the usual ones; those of devices by name."""

    server: Mapping[str, object] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def run_fleet(schedule: Schedule, *, family: Path, work: Path, ways: Ways = Ways()) -> FleetRun:
    """Train `ROUNDS` rounds under the schedule.

    Raises:
        FleetFailureError: a process ended in another way than by its crash point or with success, or too late.
    """
    with Fleet(schedule, family=family, work=work, ways=ways) as fleet:
        fleet.server.start()
        fleet.let_devices_in()
        fleet.start_devices()
        fleet.until_devices_are_done()
        # If a crash point of the server is still ahead, it now ends in peace or by it.
        code = fleet.server.stop()
        if code not in (0, -signal.SIGKILL):
            raise FleetFailureError(f"the server ended with status {code}")
        return fleet.outcome()


class Fleet:
    """The processes of a run, the link between them, and the folder in which they work."""

    def __init__(self, schedule: Schedule, *, family: Path, work: Path, ways: Ways = Ways()) -> None:
        work.mkdir(parents=True)
        self.state = work / "state"
        self.events = {name: work / f"{name}.jsonl" for name in DEVICES}
        self._schedule, self._family, self._work, self._ways = schedule, family, work, ways
        self._link = Link(schedule.link_faults)
        self.server = self._server()
        self.devices = [self._device(name) for name in DEVICES]

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._link.close()
        everyone = [self.server, *self.devices]
        for each in everyone:
            each.kill()
        if isinstance(error, FleetFailureError):
            logs = "\n".join(f"--- {each.name}\n{each.said()[-3000:]}" for each in everyone)
            raise FleetFailureError(f"{self._schedule}\n{error}\n{logs}") from None

    def let_devices_in(self) -> None:
        """Issue a token for exactly so many devices as there are, however often the server dies meanwhile."""
        self.until(self._has_issued_token)

    def start_devices(self) -> None:
        """Begin the life of each device."""
        for each in self.devices:
            each.start()

    def until_devices_are_done(self) -> None:
        """Start whoever dies again until every device has ended with success."""
        running = list(self.devices)

        def are_done() -> bool:
            for device in list(running):
                code = device.exit_code()
                if code == 0:
                    running.remove(device)
                elif code is not None:
                    raise FleetFailureError(f"{device.name} ended with status {code}")
            return not running

        self.until(are_done)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait while the server lives, again and again if need be.

        Raises:
            FleetFailureError: the server ended by itself, or the time is over.
        """
        give_up_at_s = time.monotonic() + RUN_TIMEOUT_S
        while not condition():
            time.sleep(POLL_S)
            code = self.server.exit_code()
            if code is not None:
                raise FleetFailureError(f"the server ended with status {code}")
            self._link.server_port = self.port()
            if time.monotonic() > give_up_at_s:
                raise FleetFailureError(f"nothing happened for {RUN_TIMEOUT_S:g} s")

    def port(self) -> int | None:
        """Where the server listened last; a connection to one that is gone just fails."""
        lines = [line for line in self.server.said().splitlines() if line.startswith("serving ")]
        return int(lines[-1].rsplit(":", 1)[1]) if lines else None

    def events_of(self, device: str, kind: str) -> list[dict[str, Any]]:
        """What a device has recorded of one kind."""
        path = self.events[device]
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def outcome(self) -> FleetRun:
        """What the processes have left behind."""
        died_at = tuple(point for each in (self.server, *self.devices) for point in each.died_at)
        return FleetRun(self._family, self.state, self.events, died_at, tuple(self._link.cuts))

    def _has_issued_token(self) -> bool:
        port = self.port()
        if port is None:
            return False
        admin_token = (self.state / "admin-token").read_text().strip()
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/admin/tokens",
                json={"max_uses": len(DEVICES)},
                headers={"Authorization": f"Bearer {admin_token}"},
            )
            (self._work / TOKEN_NAME).write_text(answer.raise_for_status().json()["token"])
            return True
        return False

    def _server(self) -> Supervised:
        options = {
            "--family": self._family,
            "--state": self.state,
            "--port": 0,
            "--rounds": ROUNDS,
            "--min-devices": len(DEVICES),
            "--retry-after-s": 0.1,
            "--retry-after-accepted-s": 0.05,
            "--round-deadline-s": 10 * RUN_TIMEOUT_S,
            "--local-epochs": 2,
        }
        command = [*quadloom("serve", {**options, **self._ways.server}), "--keep-updates"]
        return Supervised("server", command, self._work / "server.log", list(self._schedule.crashes.get("server", ())))

    def _device(self, name: str) -> Supervised:
        work = self._work
        options = {
            "--server": self._link.url,
            "--data": tiny_family.write_examples(work / f"{name}-data.jsonl", seed=len(name), examples=EXAMPLES[name]),
            "--name": name,
            "--cache": work / name,
            "--enrolment-token-file": work / TOKEN_NAME,
            "--events": self.events[name],
            "--memory-limit": MEMORY_LIMITS[name],
            "--threads": 1,
            "--checkpoint-s": 0,
            "--patience-s": RUN_TIMEOUT_S,
        }
        crashes = list(self._schedule.crashes.get(name, ()))
        options.update(self._ways.devices.get(name, {}))
        return Supervised(name, quadloom("device", options), work / f"{name}.log", crashes)
