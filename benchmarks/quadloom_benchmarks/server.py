"""`quadloom bench server`: what one server does for fleets of several sizes, as a table."""

import json
import math
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from quadloom_benchmarks.server_family import write_server_family
from quadloom_runtime.contract.administration import IssuedToken, IssueTokenRequest
from quadloom_runtime.errors import QuadloomError

LARGEST_FLEET = 10_000
LEAST_UPDATES = 200
"""Small fleets report in so many rounds that there are this many updates to time."""
SAMPLING_INTERVAL_S = 0.05
OPTIONS = {
    "--port": 0,
    "--retry-after-s": 0.05,
    "--retry-after-accepted-s": 0.05,
    # All devices are one process at one address, and never pause.
    "--max-requests-per-minute": 10**9,
    "--max-unsigned-requests-per-minute": 10**9,
}
PHASES = ("enrolments", "check-ins", "updates", "blobs")


@dataclass
class RunningServer:
    """A real `quadloom serve` process.

    Attributes:
        anonymous_bytes: its anonymous memory, sampled while it runs.
    """

    process: "subprocess.Popen[str]"
    host: str
    port: int
    token: str
    anonymous_bytes: list[int] = field(default_factory=list)


def parse_fleet_sizes(text: str) -> tuple[int, ...]:
    """``"10 100"`` -> numbers of devices.

    Raises:
        QuadloomError: not a list of positive numbers.
    """
    words = text.split()
    if not words or not all(word.isdecimal() and 0 < int(word) <= LARGEST_FLEET for word in words):
        raise QuadloomError(f"--devices {text!r} are no fleet sizes", remedy='write e.g. --devices "10 100 1000"')
    return tuple(int(word) for word in words)


def report_server(fleet_sizes: tuple[int, ...], *, work: Path) -> None:
    """Measure and print the table."""
    folder = work / "server"
    manifest = write_server_family(folder / "family")
    update_size_bytes = 4 * sum(math.prod(row.shape) for row in manifest.parameters)
    options = " ".join(f"{name} {value}" for name, value in OPTIONS.items())
    print(
        f"one `quadloom serve` process, SQLite {sqlite3.sqlite_version} at {folder}, {os.cpu_count()} cores "
        f"(also of the process that is all devices), Python {platform.python_version()}\n"
        "every request signed, one kept connection per device, all devices at once; an accepted update is on the disk\n"
        f"options: {options}; update {update_size_bytes / 1e6:.2f} MB"
    )
    print(
        f"{'devices':>8}"
        + "".join(f"{name + '/s':>13}{'p50 ms':>9}{'p99 ms':>9}" for name in PHASES[:3])
        + f"{'blobs MB/s':>12}{'idle MB':>9}{'peak MB':>9}"
    )
    for devices in fleet_sizes:
        print(_row(devices, folder), flush=True)


def _row(devices: int, folder: Path) -> str:
    rounds = max(1, LEAST_UPDATES // devices)
    with _serving(folder, devices=devices, rounds=rounds) as server:
        phases = _load(server, devices=devices, rounds=rounds)
    cells = [f"{devices:>8}"]
    for name in PHASES[:3]:
        phase = phases[name]
        cells.append(f"{phase['requests'] / phase['seconds']:>13.0f}{phase['p50_ms']:>9.1f}{phase['p99_ms']:>9.1f}")
    blobs = phases["blobs"]
    idle, peak = server.anonymous_bytes[0], max(server.anonymous_bytes)
    return "".join(cells) + f"{blobs['bytes'] / blobs['seconds'] / 1e6:>12.0f}{idle / 1e6:>9.1f}{peak / 1e6:>9.1f}"


def _load(server: RunningServer, *, devices: int, rounds: int) -> dict[str, dict[str, float]]:
    words = ["--host", server.host, "--port", server.port, "--devices", devices, "--rounds", rounds]
    command = [sys.executable, "-m", "quadloom_benchmarks.server_load", *map(str, words), "--token", server.token]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise QuadloomError(
            f"the devices failed: {ended.stderr.strip()[-1000:]}", remedy="run with fewer --devices, or report it"
        )
    found: dict[str, dict[str, float]] = json.loads(ended.stdout)
    return found


@contextmanager
def _serving(folder: Path, *, devices: int, rounds: int) -> Iterator[RunningServer]:
    state = folder / f"state-{devices}"
    shutil.rmtree(state, ignore_errors=True)
    options = OPTIONS | {
        "--family": folder / "family",
        "--state": state,
        "--rounds": rounds,
        "--min-devices": devices,
    }
    words = [str(word) for option in options.items() for word in option]
    log = folder / f"server-{devices}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "quadloom_runtime", "serve", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        host, port = _address(process, log)
        server = RunningServer(process, host, port, _token(host, port, state))
        with _watching_memory(server):
            yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(state, ignore_errors=True)


def _address(process: "subprocess.Popen[str]", log: Path) -> tuple[str, int]:
    while process.poll() is None:
        found = re.search(r"^serving .* at http://(.+):(\d+)$", log.read_text(), re.MULTILINE)
        if found:
            return found[1], int(found[2])
        threading.Event().wait(SAMPLING_INTERVAL_S)
    raise QuadloomError(f"the server ended at once: {log.read_text()[-1000:]}", remedy="see its words")


def _token(host: str, port: int, state: Path) -> str:
    headers = {"authorization": f"Bearer {(state / 'admin-token').read_text().strip()}"}
    message = IssueTokenRequest(note="benchmark").model_dump(mode="json")
    answer = httpx.post(f"http://{host}:{port}/v1/admin/tokens", json=message, headers=headers).raise_for_status()
    return IssuedToken.model_validate_json(answer.content).token


@contextmanager
def _watching_memory(server: RunningServer) -> Iterator[None]:
    status = Path(f"/proc/{server.process.pid}/status")
    stop = threading.Event()

    def sample() -> None:
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
        assert found is not None
        server.anonymous_bytes.append(1024 * int(found[1]))

    def watch() -> None:
        while not stop.wait(SAMPLING_INTERVAL_S):
            sample()

    sample()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
