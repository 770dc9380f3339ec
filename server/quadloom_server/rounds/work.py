"""What a device that checks in during an open round gets: its open assignment, a new one, or nothing for now."""

import uuid
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.rounds.assigning import settings_for
from quadloom_server.rounds.knowledge import capabilities_of
from quadloom_server.rounds.places import why_no_place
from quadloom_server.rounds.planning import RoundPlanning
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.plans import planned_for, planned_member
from quadloom_server.store.queries import has_accepted_update, latest_assignment, member_key, open_assignment
from quadloom_server.store.tables import Assignment, Device, PlannedAssignment, Round


@dataclass(frozen=True)
class Work:
    """An assignment with its member."""

    row: Assignment
    member: MemberSpec


@dataclass(frozen=True)
class NoWork:
    """Nothing for this device now, and why."""

    reason: str


def work_for(turn: Turn, device: Device, current: Round, *, planning: RoundPlanning) -> Work | NoWork:
    """Find or make the device's work in the open round, as it is planned.

    One assignment per device and round, handed out again while it is open, also that of an earlier round. Another one
    follows only an out-of-memory failure, an expiry, or a failure before the deadline was last extended.
    """
    begun = open_assignment(turn.session, device_id=device.id)
    if begun is not None:
        member = planning.family.member(member_key(begun))
        if member is not None and _fits(member, capabilities_of(device), rank=begun.rank):
            return Work(begun, member)
        begun.state = "expired"  # the family was exported or measured anew, and the member is gone, or too large
    if has_accepted_update(turn.session, device_id=device.id, round_number=current.number):
        return NoWork(f"the update is counted, round {current.number} waits for other devices")
    latest = latest_assignment(turn.session, device_id=device.id, round_number=current.number)
    if latest is not None and latest.state == "failed" and not _may_try_again(latest, current):
        return NoWork(f"round {current.number}: {latest.failure_kind} failure, work comes again in the next round")
    planned = planned_for(turn.session, device_id=device.id, round_number=current.number)
    if planned is None or not _still_holds(planned, capabilities_of(device), current, planning):
        planned = planning.plan_alone(turn, device, current)
    key = planned_member(planned)
    member = None if key is None else planning.family.member(key)
    if member is None:
        return NoWork(planned.reason)
    no_place = why_no_place(turn, device, current, planning.policy)
    planned.turned_away = no_place is not None
    if no_place is not None:
        return NoWork(no_place)
    row = _new_assignment(turn, device, current, member.key, attempt=latest.attempt + 1 if latest else 1)
    row.reason = planned.reason
    _ask_for(row, capabilities_of(device), planning, planned)
    turn.session.add(row)
    turn.session.flush()
    turn.events.append(f"round {current.number}: {device.name} assigned {member.key.label} ({planned.reason})")
    return Work(row, member)


def _ask_for(row: Assignment, capabilities: Capabilities, planning: RoundPlanning, planned: PlannedAssignment) -> None:
    """Write down what the device is asked to do, as it is now."""
    row.memory_limit_bytes = capabilities.memory_limit_bytes
    row.rank = planned.rank or capabilities.rank or planning.family.manifest.lora.rank
    row.settings = settings_for(planning.settings, round_number=row.round_number).model_dump(mode="json")


def _may_try_again(failed: Assignment, current: Round) -> bool:
    return failed.failure_kind == "out-of-memory" or failed.assigned_at_s < current.window_opened_at_s


def _still_holds(
    planned: PlannedAssignment, capabilities: Capabilities, current: Round, planning: RoundPlanning
) -> bool:
    """Whether the device does what is planned: its member is there and fits, or it is not needed."""
    key = planned_member(planned)
    if key is None:
        # A round that was extended lacks updates: whoever sits out may help.
        return current.window_opened_at_s == current.opened_at_s
    member = planning.family.member(key)
    return member is not None and _fits(member, capabilities, rank=planned.rank or capabilities.rank)


def _fits(member: MemberSpec, capabilities: Capabilities, *, rank: int | None) -> bool:
    """As the family says now: it may have been measured since the plan was made."""
    return needed_bytes(member, rank=rank) <= capabilities.memory_limit_bytes


def _new_assignment(turn: Turn, device: Device, current: Round, member: MemberKey, *, attempt: int) -> Assignment:
    return Assignment(
        id=str(uuid.uuid4()),
        device_id=device.id,
        round_number=current.number,
        attempt=attempt,
        depth=member.depth,
        quantized_layers=member.quantized_layers,
        recompute_percent=member.recompute_percent,
        format=member.format,
        state="open",
        assigned_at_s=turn.now_s,
    )
