"""Who may take part: a device that comes with a valid token, or one whose key is known already."""

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from quadloom_runtime.contract.signatures import RequestSignature
from quadloom_runtime.contract.wire import Capabilities, EnrolRequest
from quadloom_runtime.units import format_bytes
from quadloom_server.aggregation.method import WrongRankError
from quadloom_server.errors import RefusedRequestError, RevokedDeviceError
from quadloom_server.rounds.device_adapters import DeviceAdapters
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.plans import forget_open_plan
from quadloom_server.store.queries import device_count, device_named, expire_open_assignments, last_closed_round
from quadloom_server.store.tables import Device
from quadloom_server.trust.nonces import use_nonce
from quadloom_server.trust.tokens import redeem


def enrol_device(turn: Turn, request: EnrolRequest, signature: RequestSignature, *, max_devices: int) -> Device:
    """Register a device under its key, or take the new name and capabilities of a known one.

    The nonce is noted only for those who may come in: a stranger must not be able to fill the database.

    Raises:
        RefusedRequestError: no valid token, the name is another device's, there are `max_devices` already, or the
            request is a replay.
        RevokedDeviceError: the key is shut out.
    """
    device = turn.session.scalar(select(Device).where(Device.public_key == request.public_key))
    if device is None:
        device = _admit(turn, request, max_devices=max_devices)
    elif device.revoked_at_s is not None:
        raise RevokedDeviceError(device.name)
    else:
        _update(turn, device, request)
    use_nonce(turn.session, signature)
    device.seen_at_s = turn.now_s
    turn.session.flush()
    return device


def check_rank(session: Session, adapters: DeviceAdapters, capabilities: Capabilities) -> None:
    """Have the adapter at the rank that a device wants, or refuse it.

    Raises:
        RefusedRequestError: the task has no adapter of this rank.
    """
    if capabilities.rank is None:
        return
    try:
        adapters.reference(session, last_closed_round(session), capabilities.rank)
    except WrongRankError as error:
        raise RefusedRequestError(error.cause, remedy=error.remedy, code="wrong-rank", http_status=409) from None


def _admit(turn: Turn, request: EnrolRequest, *, max_devices: int) -> Device:
    token_id = redeem(turn.session, request.enrolment_token, now_s=turn.now_s)
    _check_name(turn, request.name)
    if device_count(turn.session) >= max_devices:
        raise RefusedRequestError(
            f"{max_devices} devices have enrolled, which is the most that this server takes",
            remedy="have the owner of the fleet revoke devices that are gone, or raise `quadloom serve --max-devices`",
            code="too-many-devices",
            http_status=403,
        )
    capabilities = request.capabilities
    device = Device(
        id=str(uuid.uuid4()),
        name=request.name,
        public_key=request.public_key,
        token_id=token_id,
        capabilities=capabilities.model_dump(mode="json"),
        enrolled_at_s=turn.now_s,
        seen_at_s=turn.now_s,
    )
    turn.session.add(device)
    turn.session.flush()
    memory = format_bytes(capabilities.memory_limit_bytes)
    turn.events.append(f"enrolled {request.name} ({capabilities.profile or 'no profile'}, {memory})")
    return device


def _update(turn: Turn, device: Device, request: EnrolRequest) -> None:
    if device.name != request.name:
        _check_name(turn, request.name)
        turn.events.append(f"{device.name} is now called {request.name}")
        device.name = request.name
    capabilities = request.capabilities.model_dump(mode="json")
    if device.capabilities != capabilities:
        # What it holds, or was to get, was planned for another device.
        expire_open_assignments(turn.session, device_id=device.id)
        forget_open_plan(turn.session, device_id=device.id)
        turn.events.append(f"{request.name} has new capabilities")
        device.capabilities = capabilities


def _check_name(turn: Turn, name: str) -> None:
    if device_named(turn.session, name) is not None:
        raise RefusedRequestError(
            f"another device is called {name!r}",
            remedy="choose another --name, or have the owner of the fleet revoke the device that has it",
            code="name-taken",
            http_status=409,
        )
