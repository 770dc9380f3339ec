"""The whole task as people see it, in a fixed number of queries whatever the number of devices."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.contract.status import DeviceStatus, RoundStatus, RoundWork, TaskStatus, Waiting
from quadloom_runtime.contract.wire import Capabilities, Evaluation
from quadloom_server.adapters import tensors_reference
from quadloom_server.rounds import control
from quadloom_server.rounds.lifecycle import finished_reason
from quadloom_server.rounds.needed import needed_updates
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.store.durations import real_seconds, round_waiting
from quadloom_server.store.plans import planned_member
from quadloom_server.store.queries import member_key, round_progress
from quadloom_server.store.tables import AcceptedUpdate, Assignment, Device, PlannedAssignment, Round, RoundEvaluation

WORK_SHOWN_ROUNDS = 2
"""The work of so many rounds is in the status: of the open one, and of the one before, which just closed."""


def task_status(session: Session, *, task_id: str, policy: RoundPolicy, now_s: float) -> TaskStatus:
    """Rounds and devices with what they did so far.

    Of a device, ``train_s``, ``bytes_down`` and ``bytes_up`` are sums over its accepted updates, and
    ``peak_step_bytes`` is the largest of them.
    """
    # A round may close between two of these queries. What is read later is never older, so a task that is finished has
    # its last round closed here, and a round that is closed its evaluation.
    finished, paused = finished_reason(session, policy), control.is_paused(session)
    rounds = session.scalars(select(Round).order_by(Round.number)).all()
    waited = round_waiting(session)
    evaluations = {
        each.round_number: Evaluation(accuracy=each.accuracy, loss=each.loss, examples=each.examples)
        for each in session.scalars(select(RoundEvaluation))
    }
    return TaskStatus(
        task_id=task_id,
        state="finished" if finished is not None else "paused" if paused else "running",
        reason=finished or (control.PAUSED if paused else _running_reason(rounds[-1] if rounds else None, policy)),
        rounds=tuple(
            _round_status(
                session,
                each,
                policy,
                evaluations.get(each.number),
                waited.get(each.number),
                now_s,
                with_work=each.number > rounds[-1].number - WORK_SHOWN_ROUNDS,
            )
            for each in rounds
        ),
        devices=_device_statuses(session),
        initial_evaluation=evaluations.get(0),
        aggregation=policy.aggregation,
        largest_staleness=policy.largest_staleness,
    )


def _running_reason(current: Round | None, policy: RoundPolicy) -> str:
    if current is None:
        return f"waiting for {policy.min_devices} devices to enrol"
    return f"round {current.number} of {policy.rounds} is {current.state}"


def _round_status(
    session: Session,
    row: Round,
    policy: RoundPolicy,
    evaluation: Evaluation | None,
    waited: Waiting | None,
    now_s: float,
    *,
    with_work: bool,
) -> RoundStatus:
    progress = round_progress(session, row.number)
    return RoundStatus(
        index=row.number,
        state="closed" if row.state == "closed" else "open",
        assigned=progress.assigned,
        accepted=progress.accepted,
        late=progress.late,
        failed=progress.failed,
        duration_s=(now_s if row.closed_at_s is None else row.closed_at_s) - row.opened_at_s,
        evaluation=evaluation,
        adapter=_adapter(row),
        planner=row.planner,
        needed=None if row.state == "closed" else needed_updates(session, policy, row.number),
        work=_work(session, row.number) if with_work else (),
        waiting=waited,
        uniform_depth=row.uniform_depth,
        uniform_waiting=Waiting(sum_s=row.uniform_wait_s, share=row.uniform_wait_share),
    )


def _work(session: Session, round_number: int) -> tuple[RoundWork, ...]:
    taken_s = real_seconds(session, round_number)
    found = (
        select(PlannedAssignment, Device.name)
        .join(Device, Device.id == PlannedAssignment.device_id)
        .where(PlannedAssignment.round_number == round_number)
        .order_by(Device.enrolled_at_s, Device.name)
    )
    return tuple(
        RoundWork(
            device=name,
            member=planned_member(row),
            reason=row.reason,
            expected_s=row.expected_s,
            real_s=taken_s.get(row.device_id),
        )
        for row, name in session.execute(found)
    )


def _adapter(row: Round) -> BlobReference | None:
    if row.adapter_sha256 is None or row.adapter_size_bytes is None:
        return None
    return tensors_reference(row.number, sha256=row.adapter_sha256, size_bytes=row.adapter_size_bytes)


@dataclass(frozen=True)
class Totals:
    """What the accepted updates of one device add up to."""

    updates: int = 0
    train_s: float = 0.0
    peak_step_bytes: int | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    counted_round: int | None = None


def _device_statuses(session: Session) -> tuple[DeviceStatus, ...]:
    latest = {row.device_id: row for row in session.scalars(_latest_assignments())}
    totals = _totals(session)
    devices = session.scalars(select(Device).order_by(Device.enrolled_at_s, Device.name))
    return tuple(_device_status(each, latest.get(each.id), totals.get(each.id, Totals())) for each in devices)


def _latest_assignments() -> Select[Any]:
    place = func.row_number().over(
        partition_by=Assignment.device_id, order_by=(Assignment.round_number.desc(), Assignment.attempt.desc())
    )
    ranked = select(Assignment.id, place.label("place")).subquery()
    return select(Assignment).join(ranked, ranked.c.id == Assignment.id).where(ranked.c.place == 1)


def _totals(session: Session) -> dict[str, Totals]:
    summed = select(
        AcceptedUpdate.device_id,
        func.count(),
        func.sum(AcceptedUpdate.train_s),
        func.max(AcceptedUpdate.peak_step_bytes),
        func.sum(AcceptedUpdate.downloaded_bytes),
        func.sum(AcceptedUpdate.size_bytes),
        func.max(AcceptedUpdate.round_number),
    ).group_by(AcceptedUpdate.device_id)
    return {
        device_id: Totals(updates, float(train_s), peak, int(down), int(up), counted_round)
        for device_id, updates, train_s, peak, down, up, counted_round in session.execute(summed)
    }


def _device_status(device: Device, assignment: Assignment | None, totals: Totals) -> DeviceStatus:
    capabilities = Capabilities.model_validate(device.capabilities)
    return DeviceStatus(
        device_id=device.id,
        name=device.name,
        profile=capabilities.profile,
        memory_limit_bytes=capabilities.memory_limit_bytes,
        member=None if assignment is None else member_key(assignment),
        state=_device_state(device, assignment),
        round_index=None if assignment is None else assignment.round_number,
        rounds_accepted=totals.updates,
        peak_step_bytes=totals.peak_step_bytes,
        train_s=totals.train_s,
        bytes_down=totals.bytes_down,
        bytes_up=totals.bytes_up,
        rank=None if assignment is None else assignment.rank,
        counted_round=totals.counted_round,
    )


def _device_state(device: Device, assignment: Assignment | None) -> str:
    if device.revoked_at_s is not None:
        return "revoked"
    return "enrolled" if assignment is None else assignment.state
