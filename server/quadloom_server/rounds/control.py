"""What the owner of a fleet does to a task: start, pause and end it, and shut a device out. Stored, so it lasts."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.administration import EnrolledDevice, TaskControl
from quadloom_server.errors import RefusedRequestError
from quadloom_server.rounds.needed import needed_updates
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.queries import expire_open_assignments, latest_round, round_progress, the_task
from quadloom_server.store.tables import Device

PAUSED = "the task is paused by its owner"
ENDED = "the task was ended by its owner"


def is_paused(session: Session) -> bool:
    """Whether work waits for the owner."""
    return the_task(session).control == "paused"


def is_ended(session: Session) -> bool:
    """Whether the owner wants no more work to be done."""
    return the_task(session).control == "ended"


def pause(turn: Turn) -> TaskControl:
    """Hand out no more work, and stop the clock of the open round; updates that are under way still count."""
    task = the_task(turn.session)
    _refuse_if_ended(task.control)
    if task.control == "running":
        task.control, task.paused_at_s = "paused", turn.now_s
        turn.events.append(PAUSED)
    return TaskControl(control="paused", reason=PAUSED)


def start(turn: Turn) -> TaskControl:
    """Go on after a pause; the open round gets the time that it stood still."""
    task = the_task(turn.session)
    _refuse_if_ended(task.control)
    if task.control == "paused" and task.paused_at_s is not None:
        current = latest_round(turn.session)
        if current is not None and current.state == "open":
            current.deadline_at_s += max(0.0, turn.now_s - task.paused_at_s)
        task.control, task.paused_at_s = "running", None
        turn.events.append("the task goes on")
    return TaskControl(control="running", reason="the task is running")


def end(turn: Turn, policy: RoundPolicy) -> TaskControl:
    """End the task for good. The open round still becomes an adapter if it has the updates that a round needs."""
    task = the_task(turn.session)
    if task.control != "ended":
        task.control, task.paused_at_s = "ended", None
        turn.events.append(ENDED)
        current = latest_round(turn.session)
        if current is not None and current.state == "open":
            expire_open_assignments(turn.session)
            accepted = round_progress(turn.session, current.number).accepted
            if accepted >= needed_updates(turn.session, policy, current.number):
                current.state = "closing"
                turn.closing = current.number
                turn.events.append(f"round {current.number} closing with {accepted} updates")
    return TaskControl(control="ended", reason=ENDED)


def revoke_device(turn: Turn, device_id: str) -> EnrolledDevice:
    """Shut a device out; what it has contributed so far stays. Again changes nothing.

    Raises:
        RefusedRequestError: 404, no such device.
    """
    device = turn.session.get(Device, device_id)
    if device is None:
        raise RefusedRequestError(
            f"no device has the id {device_id!r}",
            remedy="see `quadloom server devices list`",
            code="no-such-device",
            http_status=404,
        )
    if device.revoked_at_s is None:
        device.revoked_at_s = turn.now_s
        expire_open_assignments(turn.session, device_id=device.id)
        turn.session.flush()
        turn.events.append(f"revoked {device.name}")
    return enrolled_device(device)


def enrolled_devices(session: Session) -> tuple[EnrolledDevice, ...]:
    """Every device that ever enrolled, the oldest first."""
    rows = session.scalars(select(Device).order_by(Device.enrolled_at_s, Device.id))
    return tuple(enrolled_device(each) for each in rows)


def enrolled_device(device: Device) -> EnrolledDevice:
    """The device as its owner sees it."""
    return EnrolledDevice(
        device_id=device.id,
        name=device.name,
        public_key=device.public_key,
        token_id=device.token_id,
        enrolled_at_s=device.enrolled_at_s,
        seen_at_s=device.seen_at_s,
        revoked_at_s=device.revoked_at_s,
    )


def _refuse_if_ended(control: str) -> None:
    if control == "ended":
        raise RefusedRequestError(
            ENDED,
            remedy="serve the family with another state folder to train it anew",
            code="task-ended",
            http_status=409,
        )
