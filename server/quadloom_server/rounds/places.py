"""Which of the devices that come may train now, where only so many do at a time (`RoundPolicy.devices_per_round`)."""

from typing import Final

from quadloom_server.planning.turns import next_kind
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.turn import Turn
from quadloom_server.store import places
from quadloom_server.store.tables import Device, Round

CHECK_INS_MISSED: Final = 3
"""A device that has not come for so many of the times at which it should have is not waited for."""

ROUNDS_REMEMBERED: Final = 32
"""Whose turn it is follows from so many rounds: devices that join late do not make up for all that they missed."""


def why_no_place(turn: Turn, device: Device, current: Round, policy: RoundPolicy) -> str | None:
    """Why a device that is to have work gets none yet, None if it may begin.

    A place is taken until the round closes: in a round that waits for all no more than `devices_per_round` train. With
    ``selection`` ``"in-turn"`` it is kept for a kind of device that has had less of the time than its share of the
    fleet, as long as one of that kind comes, but no longer than it takes all that wait to ask: whoever comes with other
    requests and never asks for work cannot stop the others.
    """
    if policy.devices_per_round is None:
        return None
    taken = places.places_taken(turn.session, current.number)
    if taken >= policy.devices_per_round:
        return f"round {current.number} has {taken} devices at work, as many as train at a time"
    patience_s = CHECK_INS_MISSED * policy.longest_retry_s
    if policy.selection == "first-come" or turn.now_s - current.window_opened_at_s > patience_s:
        return None
    mine = places.kind_of(device)
    waiting = places.kinds_waiting(turn.session, current.number, seen_since_s=turn.now_s - patience_s)
    fleet = places.fleet_by_kind(turn.session)
    # Of equals the first: this device is here.
    held = places.held_by_kind(turn.session, since_round=current.number - ROUNDS_REMEMBERED, now_s=turn.now_s)
    chosen = next_kind([mine, *sorted(waiting)], held=held, fleet=fleet)
    # Devices are not told of each other's profiles.
    return None if chosen == mine else f"round {current.number} keeps its place for devices of another kind"
