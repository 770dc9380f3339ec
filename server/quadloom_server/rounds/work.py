"""What a device that checks in during an open round gets: its open assignment, a new one, or nothing for now."""

import uuid
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities
from quadloom_server.family import ServedFamily
from quadloom_server.planning.plan import Planner, as_demanding_as
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.queries import (
    has_accepted_update,
    latest_assignment,
    member_key,
    members_out_of_memory,
)
from quadloom_server.store.tables import Assignment, Device, Round


@dataclass(frozen=True)
class Work:
    """An assignment with its member."""

    row: Assignment
    member: MemberSpec


@dataclass(frozen=True)
class NoWork:
    """Nothing for this device now, and why."""

    reason: str


def work_for(turn: Turn, device: Device, current: Round, *, family: ServedFamily, planner: Planner) -> Work | NoWork:
    """Find or make the device's work in the open round.

    One assignment per device and round, handed out again while it is open. Another one follows only an out-of-memory
    failure, an expiry, or a failure before the deadline was last extended.
    """
    if has_accepted_update(turn.session, device_id=device.id, round_number=current.number):
        return NoWork(f"the update is counted, round {current.number} waits for other devices")
    latest = latest_assignment(turn.session, device_id=device.id, round_number=current.number)
    if latest is not None and latest.state == "open":
        member = family.member(member_key(latest))
        if member is not None:
            return Work(latest, member)
        latest.state = "expired"  # the family was exported anew without this member
    if latest is not None and latest.state == "failed" and not _may_try_again(latest, current):
        return NoWork(f"round {current.number}: {latest.failure_kind} failure, work comes again in the next round")
    return _plan(turn, device, current, latest, family=family, planner=planner)


def capabilities_of(device: Device) -> Capabilities:
    """What the device said it can do."""
    return Capabilities.model_validate(device.capabilities)


def _may_try_again(failed: Assignment, current: Round) -> bool:
    return failed.failure_kind == "out-of-memory" or failed.assigned_at_s < current.window_opened_at_s


def _plan(
    turn: Turn, device: Device, current: Round, latest: Assignment | None, *, family: ServedFamily, planner: Planner
) -> Work | NoWork:
    capabilities = capabilities_of(device)
    members = family.manifest.members
    excluded: set[MemberKey] = set()
    for failed in members_out_of_memory(
        turn.session, device_id=device.id, memory_limit_bytes=capabilities.memory_limit_bytes
    ):
        excluded |= as_demanding_as(failed, members)
    choice = planner(capabilities, members, excluded)
    member = None if choice.member is None else family.member(choice.member)
    if member is None:
        return NoWork(choice.reason)
    row = _new_assignment(turn, device, current, member.key, attempt=latest.attempt + 1 if latest else 1)
    row.reason = choice.reason
    row.memory_limit_bytes = capabilities.memory_limit_bytes
    turn.session.add(row)
    turn.session.flush()
    turn.events.append(f"round {current.number}: {device.name} assigned {member.key.label} ({choice.reason})")
    return Work(row, member)


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
