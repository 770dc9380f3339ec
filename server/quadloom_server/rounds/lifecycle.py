"""When a round opens, is extended, starts closing, and when the task is finished."""

from sqlalchemy.orm import Session

from quadloom_server.rounds import control
from quadloom_server.rounds.needed import needed_updates
from quadloom_server.rounds.planning import RoundPlanning
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.queries import (
    Progress,
    device_count,
    expire_open_assignments,
    latest_round,
    outstanding_since,
    round_evaluation,
    round_progress,
)
from quadloom_server.store.tables import Round


def advance(turn: Turn, policy: RoundPolicy, planning: RoundPlanning) -> None:
    """Do what is due at this time: open the next round, extend the open one, or start closing it.

    Nothing is while the owner has paused or ended the task.
    """
    if control.is_paused(turn.session) or control.is_ended(turn.session):
        return
    current = latest_round(turn.session)
    if current is None or current.state == "closed":
        _open_next(turn, policy, planning, after=current)
    elif current.state == "open":
        _close_or_extend(turn, policy, current)


def finished_reason(session: Session, policy: RoundPolicy) -> str | None:
    """Why no more work will come, None while some will.

    Nothing is stored for this, unless the owner ended the task: a server that is restarted with more rounds goes on.
    """
    last = latest_round(session)
    if control.is_ended(session) and (last is None or last.state != "closing"):
        return control.ENDED
    if last is None or last.state != "closed":
        return None
    evaluation = round_evaluation(session, last.number)
    if policy.target_accuracy is not None and evaluation and evaluation.accuracy >= policy.target_accuracy:
        return (
            f"round {last.number} reached accuracy {evaluation.accuracy:.4f}, the target is {policy.target_accuracy:g}"
        )
    if policy.target_loss is not None and evaluation and evaluation.loss <= policy.target_loss:
        return f"round {last.number} reached loss {evaluation.loss:.4f}, the target is {policy.target_loss:g}"
    if last.number >= policy.rounds:
        return f"all {policy.rounds} rounds are done"
    return None


def why_no_round(session: Session, current: Round | None, policy: RoundPolicy) -> str:
    """Why a device that comes finds no open round."""
    if current is not None:
        return f"round {current.number} is being closed"
    return f"{device_count(session)} of {policy.min_devices} devices have enrolled"


def _open_next(turn: Turn, policy: RoundPolicy, planning: RoundPlanning, *, after: Round | None) -> None:
    if finished_reason(turn.session, policy) or device_count(turn.session) < policy.min_devices:
        return
    number = 1 if after is None else after.number + 1
    planning.open_round(turn, number=number, after=after, deadline_s=policy.round_deadline_s)


def _close_or_extend(turn: Turn, policy: RoundPolicy, current: Round) -> None:
    progress = round_progress(turn.session, current.number)
    overdue = turn.now_s >= current.deadline_at_s
    needed = needed_updates(turn.session, policy, current.number)
    # What began in this round or before it would come too late for the next.
    last_chance = current.number - policy.largest_staleness
    if progress.accepted >= needed and (overdue or outstanding_since(turn.session, last_chance) == 0):
        current.state = "closing"
        expire_open_assignments(turn.session, until_round=last_chance)
        turn.closing = current.number
        turn.events.append(f"round {current.number} closing with {progress.accepted} updates")
    elif overdue:
        _extend(turn, policy, current, progress, needed=needed)


def _extend(turn: Turn, policy: RoundPolicy, current: Round, progress: Progress, *, needed: int) -> None:
    """Too few updates: wait once more, and give work to devices that vanished or failed, or sat out, when they come.

    Who is late from an earlier round leaves its place to others, too; what it brings counts all the same.
    """
    expired = outstanding_since(turn.session, current.number)
    expire_open_assignments(turn.session, until_round=current.number)
    current.window_opened_at_s = turn.now_s
    current.deadline_at_s = turn.now_s + policy.round_deadline_s
    turn.events.append(
        f"round {current.number} extended by {policy.round_deadline_s:g} s: {progress.accepted} of "
        f"{needed} updates, {expired} assignments expired"
    )
