"""Run a fleet: one server, many devices, each a process of its own under its profile."""

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from quadloom_runtime.administration import AdminClient, read_secret
from quadloom_runtime.connection import ServerAddress
from quadloom_runtime.contract.administration import IssueTokenRequest
from quadloom_runtime.contract.status import TaskStatus
from quadloom_runtime.data import load_examples
from quadloom_runtime.emulation.display import Display
from quadloom_runtime.emulation.fleet_file import FleetDevice, FleetFile, TaskSection, fleet_devices, needed_updates
from quadloom_runtime.emulation.processes import Child, Processes
from quadloom_runtime.emulation.progress import EventTail, can_go_on
from quadloom_runtime.emulation.shards import split_dirichlet, split_iid, write_shards
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.private_files import create_private_file

SERVER_START_PATIENCE_S = 60.0
POLL_S = 0.5


@dataclass(frozen=True)
class EmulationResult:
    """How an emulation ended: for each target that was set, in words, whether a round reached it."""

    task: TaskStatus
    reached: dict[str, bool]


def emulate(fleet: FleetFile, *, work: Path, port: int = 0) -> EmulationResult:
    """Start server and devices, show them until the task is finished, print the tables, stop everything.

    Raises:
        QuadloomError: data, family or fleet are unusable, or the server died.
    """
    devices = fleet_devices(fleet)
    needed = needed_updates(fleet, len(devices))
    shards = _deal_data(fleet, devices, work / "data")
    with Processes(work / "logs") as processes:
        server = processes.start("server", serve_arguments(fleet, work, devices=len(devices), port=port))
        address = _wait_for_address(server)
        token_file = _enrolment_token(address, work, devices=len(devices))
        tails = {device.name: EventTail(work / "events" / f"{device.name}.jsonl") for device in devices}
        children = {}
        for device, shard in zip(devices, shards, strict=True):
            tails[device.name].path.unlink(missing_ok=True)
            arguments = _device_arguments(device, address, shard, work, tails[device.name].path, token_file)
            children[device.name] = processes.start(device.name, arguments)
        task = _follow(address, server, children, devices, tails, needed_updates=needed)
        news = {name: tail.read() for name, tail in tails.items()}
        Display.final(task, devices, news)
    return EmulationResult(task, _reached(fleet.task, task))


def _reached(wanted: TaskSection, task: TaskStatus) -> dict[str, bool]:
    found = [each.evaluation for each in task.rounds if each.evaluation is not None]
    reached = {}
    if (accuracy := wanted.target_accuracy) is not None:
        reached[f"accuracy {accuracy}"] = any(each.accuracy >= accuracy for each in found)
    if (loss := wanted.target_loss) is not None:
        reached[f"loss {loss}"] = any(each.loss <= loss for each in found)
    return reached


def _deal_data(fleet: FleetFile, devices: tuple[FleetDevice, ...], folder: Path) -> list[Path]:
    data = fleet.data
    num_labels = load_manifest(fleet.task.family).task.num_labels
    examples = load_examples(
        data.train, num_labels=num_labels, text_field=data.text_field, label_field=data.label_field
    )
    if data.split == "iid":
        shards = split_iid(len(examples), len(devices), seed=data.seed)
    else:
        labels = [each.label for each in examples if each.label is not None]
        if len(labels) < len(examples):
            raise QuadloomError(
                f"{len(examples) - len(labels)} of {len(examples)} texts have no label; a dirichlet split needs them",
                remedy='write split = "iid" in [data] of the fleet file',
            )
        shards = split_dirichlet(labels, len(devices), alpha=data.alpha, seed=data.seed)
    return write_shards(examples, shards, folder)


def serve_arguments(fleet: FleetFile, work: Path, *, devices: int, port: int) -> list[str]:
    """Words of the command that serves the fleet's task."""
    task, data = fleet.task, fleet.data
    given = {
        "--family": task.family,
        "--state": work / "server",
        "--port": port,
        "--rounds": task.rounds,
        "--min-devices": devices,
        "--min-updates": task.min_updates,
        "--devices-per-round": task.devices_per_round,
        "--selection": task.selection,
        "--planner": task.planner,
        "--aggregation": task.aggregation,
        "--largest-staleness": task.largest_staleness,
        "--server-optimizer": task.server_optimizer,
        "--server-learning-rate": task.server_learning_rate,
        "--server-decay-rounds": task.server_decay_rounds,
        "--mean-share": task.mean_share,
        "--round-deadline-s": task.round_deadline_s,
        "--eval-data": data.eval,
        "--text-field": data.text_field,
        "--label-field": data.label_field,
        "--target-accuracy": task.target_accuracy,
        "--target-loss": task.target_loss,
        "--learning-rate": task.learning_rate,
        "--head-learning-rate": task.head_learning_rate,
        "--local-epochs": task.local_epochs,
        "--max-steps": task.max_steps,
        "--optimizer": task.optimizer,
        "--schedule": task.schedule,
        "--eval-limit": task.eval_limit,
    }
    # The server is stopped from here: one that ends by itself could be gone before its last status was read.
    words = ["serve"]
    for flag, value in given.items():
        words += [] if value is None else [flag, str(value)]
    return [*words, *(["--class-balance"] if task.class_balance else [])]


def _enrolment_token(address: str, work: Path, *, devices: int) -> Path:
    """Get a token for the fleet from its server, as the owner of a fleet does, and keep it in a file."""
    path = work / "enrolment-token"
    admin_token = read_secret(work / "server" / "admin-token", what="admin token")
    with AdminClient(ServerAddress(address), admin_token) as admin:
        token = admin.issue_token(IssueTokenRequest(max_uses=devices, note="emulated fleet")).token
    path.unlink(missing_ok=True)
    create_private_file(path, token.encode())
    return path


def _device_arguments(
    device: FleetDevice, address: str, shard: Path, work: Path, events: Path, token_file: Path
) -> list[str]:
    # A cache of its own per device: bytes down are then what a real device would fetch.
    cache = work / "devices" / device.name
    words = ["device", "--server", address, "--data", str(shard), "--name", device.name, "--cache", str(cache)]
    words += ["--enrolment-token-file", str(token_file)]
    return [*words, "--events", str(events), *device.options]


def _wait_for_address(server: Child) -> str:
    deadline = time.monotonic() + SERVER_START_PATIENCE_S
    while time.monotonic() < deadline:
        found = re.search(r"http://\S+(?=\s)", server.log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        if server.process.poll() is not None:
            break
        time.sleep(0.1)
    raise QuadloomError(
        f"the server did not start: {server.last_line() or 'it wrote nothing'}", remedy=f"see {server.log}"
    )


def _follow(
    address: str,
    server: Child,
    children: dict[str, Child],
    devices: tuple[FleetDevice, ...],
    tails: dict[str, EventTail],
    *,
    needed_updates: int,
) -> TaskStatus:
    """Show progress until the task is finished; returns its last status.

    Raises:
        QuadloomError: the server ended, or so many devices that no round can get the updates it needs.
    """
    task: TaskStatus | None = None
    said_dead: set[str] = set()
    with Display(devices, live=sys.stdout.isatty()) as display, httpx.Client(timeout=10) as http:
        while True:
            latest = _task_status(http, address)
            task = latest or task
            for name, child in children.items():
                status = child.process.poll()
                if status not in (None, 0) and name not in said_dead:
                    said_dead.add(name)
                    display.say(f"device {name} ended with status {status}: {child.last_line()} (see {child.log})")
            display.show(task, {name: tail.read() for name, tail in tails.items()})
            if task is not None and task.state == "finished":
                return task
            if server.process.poll() is not None:
                raise QuadloomError(f"the server ended: {server.last_line()}", remedy=f"see {server.log}")
            alive = children.keys() - said_dead
            if not can_go_on(task, alive, devices=len(devices), needed_updates=needed_updates):
                raise QuadloomError(
                    f"{len(said_dead)} of {len(children)} devices ended with an error, and a round needs "
                    f"{needed_updates} updates: {', '.join(sorted(said_dead))}",
                    remedy=f"see their logs in {server.log.parent}, or lower min_updates in [task] of the fleet file",
                )
            time.sleep(POLL_S)


def _task_status(http: httpx.Client, address: str) -> TaskStatus | None:
    """The server's word on the task, None while it cannot answer."""
    try:
        return TaskStatus.model_validate_json(http.get(f"{address}/v1/task").raise_for_status().content)
    except (httpx.HTTPError, ValidationError):
        return None
