"""The fleet file: which devices, which data, which task."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quadloom_runtime.contract.manifest import Format
from quadloom_runtime.emulation.profiles import DeviceProfile, profile
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.units import parse_bytes


class Section(BaseModel):
    """A table of the file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSection(Section):
    """What `quadloom serve` is told; paths are relative to the fleet file.

    `min_updates`: updates without which no round closes, by default one from every device that has work in it.
    `devices_per_round`: devices that train at a time, by default all.
    `selection`: who these are, whoever comes first or kinds of devices in turn; the server knows the names.
    `planner`: what decides who does what in a round; the server knows the names.
    `aggregation`: how updates become an adapter; the server knows these names, too.
    `largest_staleness`: rounds by which an update may be late and still count, 0 by default.
    `server_optimizer`: what the server makes of a round's mean change; it knows the names.
    `server_learning_rate`: its rate; by default it takes the whole change.
    `server_decay_rounds`: the rate falls by 1 / sqrt(1 + round / this); by default it stays.
    `mean_share`: of all rounds, the last, over which the adapter is averaged that is evaluated; 0, none, by default.
    """

    family: Path
    rounds: int = Field(default=3, ge=1)
    min_updates: int | None = Field(default=None, ge=1)
    devices_per_round: int | None = Field(default=None, ge=1)
    selection: str | None = None
    planner: str | None = None
    aggregation: str | None = None
    largest_staleness: int | None = Field(default=None, ge=0)
    server_optimizer: str | None = None
    server_learning_rate: float | None = Field(default=None, gt=0, le=1)
    server_decay_rounds: float | None = Field(default=None, gt=0)
    mean_share: float | None = Field(default=None, ge=0, lt=1)
    target_accuracy: float | None = Field(default=None, gt=0, le=1)
    target_loss: float | None = Field(default=None, gt=0)
    round_deadline_s: float = Field(default=600.0, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    local_epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    optimizer: Literal["adamw", "sgd"] | None = None
    schedule: Literal["constant", "linear"] | None = None
    class_balance: bool = False
    eval_limit: int | None = Field(default=None, ge=1)


class DataSection(Section):
    """Where the data lies and how it is dealt out. `alpha` is the concentration of the Dirichlet split."""

    train: Path
    eval: Path
    split: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(default=1.0, gt=0)
    seed: int = 0
    text_field: str = "text"
    label_field: str = "label"


class DeviceSection(Section):
    """`count` devices of one kind; what is given here replaces the profile's value, `rank` the family's."""

    profile: str
    count: int = Field(default=1, ge=1, le=1000)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,50}$")] | None = None
    memory_limit: str | None = None
    threads: int | None = Field(default=None, ge=1)
    slowdown: float | None = Field(default=None, ge=1)
    link_mbps: float | None = Field(default=None, gt=0)
    formats: tuple[Format, ...] | None = Field(default=None, min_length=1)
    rank: int | None = Field(default=None, ge=1)


class FleetFile(Section):
    """The whole file."""

    task: TaskSection
    data: DataSection
    device: tuple[DeviceSection, ...] = Field(min_length=1)


class FleetDevice(Section):
    """One device of the fleet, with its options for `quadloom device`."""

    name: str
    profile: str
    memory_limit_bytes: int
    options: tuple[str, ...]


def load_fleet(path: Path, *, family: Path | None = None) -> FleetFile:
    """Read and check a fleet file; its paths come out relative to the working directory.

    Args:
        family: takes the place of the family that the file names.

    Raises:
        QuadloomError: unreadable, not TOML, or a value that is missing, unknown or out of range.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise QuadloomError(
            f"cannot read the fleet file {path}: {error}", remedy="check the path and the TOML"
        ) from None
    try:
        fleet = FleetFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise QuadloomError(
            f"fleet file {path}: {where}: {first['msg']} (got {first['input']!r})", remedy="correct that entry"
        ) from None
    base = path.parent
    task = fleet.task.model_copy(update={"family": family or base / fleet.task.family})
    data = fleet.data.model_copy(update={"train": base / fleet.data.train, "eval": base / fleet.data.eval})
    return fleet.model_copy(update={"task": task, "data": data})


def fleet_devices(fleet: FleetFile) -> tuple[FleetDevice, ...]:
    """Every single device, named ``<name>-1``, ``<name>-2`` ...

    Raises:
        QuadloomError: an unknown profile, a memory limit that is no size, or two devices of one name.
    """
    found: list[FleetDevice] = []
    for section in fleet.device:
        kind = profile(section.profile)
        for index in range(section.count):
            found.append(_device(section, kind, f"{section.name or kind.name}-{index + 1}"))
    names = [device.name for device in found]
    for name in names:
        if names.count(name) > 1:
            raise QuadloomError(f"two devices of the fleet are called {name!r}", remedy="give one section another name")
    return tuple(found)


def needed_updates(fleet: FleetFile, devices: int) -> int:
    """Updates that a round of this fleet needs.

    Raises:
        QuadloomError: more than there are devices, so that no round could ever close.
    """
    needed = fleet.task.min_updates or devices
    if needed > devices:
        raise QuadloomError(
            f"a round needs {needed} updates, and the fleet has {devices} devices",
            remedy="lower min_updates in [task], or add devices",
        )
    return needed


def _device(section: DeviceSection, kind: DeviceProfile, name: str) -> FleetDevice:
    limit = parse_bytes(section.memory_limit) if section.memory_limit else kind.memory_limit_bytes
    options = ["--profile", kind.name, "--memory-limit", str(limit)]
    for flag, value in (
        ("--threads", section.threads),
        ("--slowdown", section.slowdown),
        ("--link-mbps", section.link_mbps),
        ("--rank", section.rank),
        ("--formats", None if section.formats is None else ",".join(section.formats)),
    ):
        if value is not None:
            options += [flag, str(value)]
    return FleetDevice(name=name, profile=kind.name, memory_limit_bytes=limit, options=tuple(options))
