"""What the fleet is doing, from the server's task status and the devices' event files."""

import json
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quadloom_runtime.contract.status import DeviceStatus, TaskStatus
from quadloom_runtime.emulation.fleet_file import FleetDevice
from quadloom_runtime.emulation.round_report import waiting_words


@dataclass(frozen=True)
class DeviceProgress:
    """Latest news from one device."""

    activity: str = "starting"
    member: str = "-"
    round_index: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    out_of_memory: int = 0
    waits_because: str = ""


@dataclass
class EventTail:
    """Follows one device's event file from where it stopped reading."""

    path: Path
    progress: DeviceProgress = field(default_factory=DeviceProgress)
    _offset: int = 0

    def read(self) -> DeviceProgress:
        """Take in what was written since; a line still being written waits for the next time."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                self.progress = after_event(self.progress, json.loads(line))
        return self.progress


ACTIVITIES = {
    "fetched": "loading",
    "trained": "reporting",
    "reported": "reported",
    "failed": "failed",
    "retrying": "no answer",
    "finished": "finished",
}


def after_event(progress: DeviceProgress, event: dict[str, Any]) -> DeviceProgress:
    """The progress once an event of the device has happened."""
    kind = event["event"]
    if kind == "assigned":
        return replace(
            progress, activity="fetching", member=event["member"], round_index=event["round_index"], step=0, loss=None
        )
    if kind == "step":
        return replace(progress, activity="training", step=event["step"], steps=event["steps"], loss=event["loss"])
    if kind == "out-of-memory":
        return replace(progress, activity="out of memory", out_of_memory=progress.out_of_memory + 1)
    if kind == "waiting":
        return replace(progress, activity="waiting", waits_because=event["reason"])
    return replace(progress, activity=ACTIVITIES.get(kind, progress.activity))


def can_go_on(task: TaskStatus | None, alive: Set[str], *, devices: int, needed_updates: int) -> bool:
    """Whether enough devices are left: to open the first round, or to bring the latest round the updates it needs.

    Args:
        alive: names of the devices whose processes have not failed.
        devices: size of the fleet; the first round opens once all of them have enrolled.
        needed_updates: of a round in which every device has work.
    """
    if task is None or not task.rounds:
        enrolled = set() if task is None else {each.name for each in task.devices}
        return len(enrolled | alive) >= devices
    latest = task.rounds[-1].index
    counted = {each.name for each in task.devices if each.counted_round == latest}
    latest_needs = task.rounds[-1].needed
    return len(counted | alive) >= (needed_updates if latest_needs is None else latest_needs)


def fleet_lines(devices: tuple[FleetDevice, ...], news: dict[str, DeviceProgress]) -> list[tuple[str, ...]]:
    """One row of text per device for the live table: name, profile, limit, member, round, doing, step, loss."""
    return [_live_row(device, news[device.name]) for device in devices]


def _live_row(device: FleetDevice, now: DeviceProgress) -> tuple[str, ...]:
    return (
        device.name,
        device.profile,
        f"{device.memory_limit_bytes / 1e6:.0f} MB",
        now.member,
        str(now.round_index or "-"),
        now.activity,
        f"{now.step}/{now.steps}" if now.steps else "-",
        "-" if now.loss is None else f"{now.loss:.3f}",
    )


LIVE_COLUMNS = ("device", "profile", "limit", "member", "round", "doing", "step", "loss")
FINAL_COLUMNS = (
    "device",
    "profile",
    "(d, q)",
    "rank",
    "peak / limit MB",
    "train s",
    "MB down",
    "MB up",
    "rounds",
    "out of memory",
)
ROUND_COLUMNS = ("round", "assigned", "accepted", "failed", "seconds", "accuracy", "loss", "waited", "uniform plan")


def final_rows(
    task: TaskStatus, devices: tuple[FleetDevice, ...], news: dict[str, DeviceProgress]
) -> list[tuple[str, ...]]:
    """One row per device for the table at the end."""
    status = {each.name: each for each in task.devices}
    return [_final_row(device, status.get(device.name), news[device.name]) for device in devices]


def _final_row(device: FleetDevice, status: DeviceStatus | None, news: DeviceProgress) -> tuple[str, ...]:
    limit = device.memory_limit_bytes / 1e6
    if status is None:
        return (device.name, device.profile, "-", "-", f"- / {limit:.0f}", "-", "-", "-", "0", str(news.out_of_memory))
    key = status.member
    peak = "-" if status.peak_step_bytes is None else f"{status.peak_step_bytes / 1e6:.1f}"
    return (
        device.name,
        device.profile,
        "-" if key is None else f"({key.depth}, {key.quantized_layers})",
        "-" if status.rank is None else str(status.rank),
        f"{peak} / {limit:.0f}",
        f"{status.train_s:.1f}",
        f"{status.bytes_down / 1e6:.1f}",
        f"{status.bytes_up / 1e6:.1f}",
        str(status.rounds_accepted),
        str(news.out_of_memory),
    )


def round_rows(task: TaskStatus) -> list[tuple[str, ...]]:
    """One row per round, the untrained model first."""
    rows: list[tuple[str, ...]] = []
    if task.initial_evaluation is not None:
        start = task.initial_evaluation
        rows.append(("start", "-", "-", "-", "-", f"{start.accuracy:.4f}", f"{start.loss:.4f}", "-", "-"))
    for each in task.rounds:
        found = each.evaluation
        accuracy, loss = ("-", "-") if found is None else (f"{found.accuracy:.4f}", f"{found.loss:.4f}")
        counts = (str(each.assigned), str(each.accepted), str(each.failed))
        waits = (waiting_words(each.waiting), waiting_words(each.uniform_waiting))
        rows.append((str(each.index), *counts, f"{each.duration_s:.1f}", accuracy, loss, *waits))
    return rows
