"""What becomes of a report: counted exactly once, or answered with why it is not."""

from quadloom_runtime.contract.wire import ReportResponse
from quadloom_server.aggregation.validation import Update
from quadloom_server.rounds import control
from quadloom_server.rounds.bounds import counted_examples
from quadloom_server.rounds.lifecycle import finished_reason
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.plans import forget_open_plan, planned_for
from quadloom_server.store.queries import (
    counting_round,
    expire_open_assignments,
    has_accepted_update,
    member_key,
    round_of_update,
)
from quadloom_server.store.tables import AcceptedUpdate, Assignment, Device, Round
from quadloom_server.store.uploads import ReceivedUpload


def already_settled(turn: Turn, row: Assignment, policy: RoundPolicy) -> ReportResponse | None:
    """The answer when nothing may count any more for this assignment, else None.

    An assignment that expired may yet be reported, as long as its update is not too late: a slow device is not a
    vanished one.
    """
    if row.state == "accepted":
        return ReportResponse(status="duplicate", reason="this assignment's update is already counted")
    if row.state == "failed":
        return ReportResponse(
            status="duplicate",
            reason=f"this assignment already ended with a failure ({row.failure_kind})",
        )
    if control.is_ended(turn.session):
        return ReportResponse(status="late", reason=control.ENDED)
    counting = counting_round(turn.session)
    if counting - row.round_number > policy.largest_staleness or _is_over(turn, policy, counting):
        return ReportResponse(status="late", reason=f"round {row.round_number} no longer takes updates")
    counted = round_of_update(turn.session, device_id=row.device_id, started_round=row.round_number)
    if counted is None and has_accepted_update(turn.session, device_id=row.device_id, round_number=counting):
        counted = counting
    if counted is not None:
        return ReportResponse(
            status="duplicate",
            reason=f"another update of this device is already counted in round {counted}",
        )
    return None


def _is_over(turn: Turn, policy: RoundPolicy, counting: int) -> bool:
    """Whether the round in which an update would count never opens. One that is open closes, whatever the policy says
    since a restart."""
    if turn.session.get(Round, counting) is not None:
        return False
    return counting > policy.rounds or finished_reason(turn.session, policy) is not None


def accept(turn: Turn, row: Assignment, update: Update, upload: ReceivedUpload, *, policy: RoundPolicy) -> None:
    """Count the update; any other assignment that the device still holds is void."""
    counting = counting_round(turn.session)
    row.state = "accepted"
    turn.session.flush()
    expire_open_assignments(turn.session, device_id=row.device_id)
    report = update.report
    turn.session.add(
        AcceptedUpdate(
            assignment_id=row.id,
            device_id=row.device_id,
            round_number=counting,
            started_round=row.round_number,
            blob_sha256=upload.sha256,
            size_bytes=upload.size_bytes,
            examples=counted_examples(policy, report.examples),
            train_s=report.train_s,
            peak_step_bytes=report.peak_step_bytes,
            downloaded_bytes=report.downloaded_bytes,
            clip_norm=policy.largest_counted_norm,
            report=report.model_dump(mode="json"),
            received_at_s=turn.now_s,
        )
    )
    turn.session.flush()
    late = f" of round {row.round_number}" if row.round_number < counting else ""
    turn.events.append(
        f"round {counting}: {_device_name(turn, row)} update{late} accepted ({member_key(row).label}, "
        f"{report.examples} examples, loss {report.loss_first:.4f} -> {report.loss_last:.4f}, {_seconds(turn, row)})"
    )


def fail(turn: Turn, row: Assignment, *, kind: str, message: str) -> None:
    """End the assignment without an update. After out-of-memory, what is planned for the device holds no longer."""
    row.state = "failed"
    row.failure_kind = kind
    row.failure_message = message
    turn.session.flush()
    if kind == "out-of-memory":
        forget_open_plan(turn.session, device_id=row.device_id)
    turn.events.append(
        f"round {row.round_number}: {_device_name(turn, row)} failed {member_key(row).label} ({kind}: {message})"
    )


def _seconds(turn: Turn, row: Assignment) -> str:
    taken = f"{turn.now_s - row.assigned_at_s:.1f} s"
    planned = planned_for(turn.session, device_id=row.device_id, round_number=row.round_number)
    if planned is None or planned.expected_s is None:
        return taken
    return f"{taken}, expected {planned.expected_s:.1f} s"


def _device_name(turn: Turn, row: Assignment) -> str:
    return turn.session.get_one(Device, row.device_id).name
