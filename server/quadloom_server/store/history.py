"""What devices have done and reported so far, by device: all that the planning of a round rests on.

Each function is one query, for all devices or for one.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, func, or_, select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import Capabilities, TrainingSettings, UpdateReport
from quadloom_server.store.queries import member_key
from quadloom_server.store.tables import AcceptedUpdate, Assignment, Device

NEWEST_REPORTS = 32
"""So many reports of a device are looked at; older ones would hardly count (`calibration.HALF_LIFE_REPORTS`)."""


@dataclass(frozen=True)
class ReportedWork:
    """An accepted report, the member that it is about, and the slowdown that its device states.

    Attributes:
        accumulation: batches per optimizer step that it trained with, whatever the task does today.
    """

    member: MemberKey
    report: UpdateReport
    stated_slowdown: float
    accumulation: int

    @property
    def graph_steps(self) -> int:
        """Times that the device ran its training graph."""
        return self.report.steps * self.accumulation


@dataclass(frozen=True)
class OutOfMemory:
    """A member that did not fit, at this LoRA rank, the limit that the device had then."""

    member: MemberKey
    rank: int
    limit_bytes: int


def reported_work(session: Session, *, device_id: str | None = None) -> dict[str, list[ReportedWork]]:
    """The newest accepted reports, oldest first."""
    place = func.row_number().over(partition_by=AcceptedUpdate.device_id, order_by=AcceptedUpdate.round_number.desc())
    ranked = _of(select(AcceptedUpdate.assignment_id, place.label("place")), AcceptedUpdate.device_id, device_id)
    newest = ranked.subquery()
    found = (
        _reports()
        .join(newest, newest.c.assignment_id == Assignment.id)
        .where(newest.c.place <= NEWEST_REPORTS)
        .order_by(AcceptedUpdate.round_number)
    )
    by_device = defaultdict(list)
    for row in session.execute(found):
        by_device[row.Assignment.device_id].append(_reported(row))
    return by_device


def reported_in(session: Session, round_number: int) -> list[ReportedWork]:
    """The accepted reports of one round."""
    found = _reports().where(AcceptedUpdate.round_number == round_number)
    return [_reported(row) for row in session.execute(found)]


def failures_for_memory(session: Session, *, device_id: str | None = None) -> dict[str, list[OutOfMemory]]:
    """Every out-of-memory failure."""
    found = select(Assignment).where(Assignment.failure_kind == "out-of-memory")
    by_device = defaultdict(list)
    for each in session.scalars(_of(found, Assignment.device_id, device_id)):
        by_device[each.device_id].append(OutOfMemory(member_key(each), each.rank, each.memory_limit_bytes))
    return by_device


def members_fetched(session: Session, *, device_id: str | None = None) -> dict[str, set[MemberKey]]:
    """Members that a device has trained, or failed to for its memory: it had their files."""
    found = select(*_member_columns()).where(
        or_(Assignment.state == "accepted", Assignment.failure_kind.in_(("out-of-memory", "rejected")))
    )
    by_device = defaultdict(set)
    for row in session.execute(_of(found, Assignment.device_id, device_id).distinct()):
        by_device[row.device_id].add(member_key(row))
    return by_device


def largest_peaks(session: Session, *, device_id: str | None = None) -> dict[str, dict[tuple[MemberKey, int], int]]:
    """The largest peak in bytes that a device has measured of each member at each LoRA rank."""
    found = (
        select(*_member_columns(), Assignment.rank, func.max(AcceptedUpdate.peak_step_bytes).label("peak_bytes"))
        .join(AcceptedUpdate, AcceptedUpdate.assignment_id == Assignment.id)
        .group_by(*_member_columns(), Assignment.rank)
    )
    by_device: dict[str, dict[tuple[MemberKey, int], int]] = defaultdict(dict)
    for row in session.execute(_of(found, Assignment.device_id, device_id)):
        by_device[row.device_id][member_key(row), row.rank] = int(row.peak_bytes)
    return by_device


def _member_columns() -> tuple[Any, ...]:
    return (
        Assignment.device_id,
        Assignment.depth,
        Assignment.quantized_layers,
        Assignment.recompute_percent,
        Assignment.format,
    )


def _of(found: Select[Any], column: Any, device_id: str | None) -> Select[Any]:
    return found if device_id is None else found.where(column == device_id)


def _reports() -> Select[Any]:
    return (
        select(Assignment, AcceptedUpdate.report, Device.capabilities)
        .join(AcceptedUpdate, AcceptedUpdate.assignment_id == Assignment.id)
        .join(Device, Device.id == Assignment.device_id)
    )


def _reported(row: Row[Any]) -> ReportedWork:
    slowdown = Capabilities.model_validate(row.capabilities).slowdown
    accumulation = TrainingSettings.model_validate(row.Assignment.settings).accumulation
    return ReportedWork(member_key(row.Assignment), UpdateReport.model_validate(row.report), slowdown, accumulation)
