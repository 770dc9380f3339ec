"""What the server's optimizer keeps from round to round: a blob, named in the row of the round that left it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from quadloom_server.aggregation.server_optimizer import Moments, ServerOptimizer
from quadloom_server.state import ServerState
from quadloom_server.store.tables import Round

OPTIMIZER = "optimizer"
MEAN, SQUARE = "mean.", "square."


def read_moments(state: ServerState, number: int, optimizer: ServerOptimizer) -> Moments:
    """What this optimizer left after round `number`; none in the beginning, or if another one ran then.

    Raises:
        QuadloomError: the blob is missing or altered.
    """
    with state.sessions() as session:
        row = session.get(Round, number)
    if row is None or row.moments_sha256 is None:
        return Moments()
    with safe_open(state.blobs.checked_path(row.moments_sha256), framework="numpy") as file:
        if (file.metadata() or {}).get(OPTIMIZER) != _name(optimizer):
            return Moments()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return Moments(mean=_under(MEAN, tensors), square=_under(SQUARE, tensors))


def keep_moments(state: ServerState, moments: Moments, optimizer: ServerOptimizer) -> str | None:
    """Store them durably: their SHA-256, None if there are none."""
    tensors = {f"{MEAN}{name}": value for name, value in moments.mean.items()}
    tensors |= {f"{SQUARE}{name}": value for name, value in moments.square.items()}
    if not tensors:
        return None
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return state.blobs.put(save(whole, {OPTIMIZER: _name(optimizer)}))


def _name(optimizer: ServerOptimizer) -> str:
    return type(optimizer).__name__


def _under(prefix: str, tensors: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
