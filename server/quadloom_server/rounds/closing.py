"""Closes a round: fold the accepted updates, one at a time, into the next global adapter."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.manifest import BlobReference
from quadloom_runtime.contract.status import Waiting
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.adapters import AdapterFolders
from quadloom_server.aggregation.method import TrainedUpdate
from quadloom_server.aggregation.norm import bounded
from quadloom_server.aggregation.recent_mean import recent_mean
from quadloom_server.aggregation.server_optimizer import Moments, ServerOptimizer
from quadloom_server.aggregation.staleness import staleness_weight
from quadloom_server.aggregation.validation import UpdateBounds, read_update
from quadloom_server.planning.waiting import waiting
from quadloom_server.rounds.device_adapters import DeviceAdapters
from quadloom_server.rounds.moments import read_moments
from quadloom_server.rounds.turn import Turn
from quadloom_server.store.durations import real_seconds
from quadloom_server.store.queries import CountedUpdate, accepted_updates
from quadloom_server.store.tables import Round, RoundEvaluation


def aggregated(
    number: int, adapters: DeviceAdapters, server_optimizer: ServerOptimizer
) -> tuple[dict[str, FloatArray], Moments]:
    """The global parameters after round `number`, and what the server's optimizer keeps for the next.

    Folded from the stored updates when the round closes: memory holds one update, what it started from, and the
    method's sums, and a server that was killed in between computes the same again.
    """
    state = adapters.state
    with state.sessions() as session:
        counted = accepted_updates(session, number)
    method = adapters.averaging.method({each.rank for each in counted})
    sums = method.begin()
    for (started_round, rank), updates in groupby(counted, lambda each: (each.started_round, each.rank)):
        start = adapters.read(started_round - 1, rank)
        for each in updates:
            change = _change(each, adapters)
            trained = {name: start[name] + value for name, value in change.items()}
            weight = each.examples * staleness_weight(number - started_round)
            sums = method.fold(sums, TrainedUpdate(start=start, trained=trained, weight=weight))
    before = state.adapters.read(number - 1)
    moments = read_moments(state, number - 1, server_optimizer)
    return server_optimizer.step(moments, before, method.finish(before, sums), round_index=number)


def restore_latest(number: int, adapters: AdapterFolders, *, mean_share: float) -> None:
    """Let ``latest`` lead to what the last closed round gave, which is checked.

    A server that was killed left it leading nowhere, or to a round that had not closed.
    """
    adapters.read(number)
    adapters.point_latest(number, mean=mean_share > 0)


@dataclass(frozen=True)
class Left:
    """What a round leaves behind, as its row names it.

    Attributes:
        adapter: what the round gave.
        mean_sha256: of the mean with the rounds before, None where the task gives out none.
        moments_sha256: of what the server's optimizer keeps, None where that is nothing.
    """

    adapter: BlobReference
    mean_sha256: str | None = None
    moments_sha256: str | None = None


def mean_after(
    number: int, parameters: dict[str, FloatArray], adapters: AdapterFolders, *, mean_share: float
) -> dict[str, FloatArray] | None:
    """The mean of what a round gave with those before, which the task is then judged by and gives out.

    Args:
        mean_share: of all rounds, the last, that the mean is over; 0 for none.

    Raises:
        QuadloomError: the mean before this round is missing or altered.
    """
    if mean_share == 0:
        return None
    return recent_mean(adapters.read_mean(number - 1), parameters, round_index=number, share=mean_share)


def _change(update: CountedUpdate, adapters: DeviceAdapters) -> dict[str, NDArray[np.float64]]:
    """What the device sent, no larger than it may be."""
    rows = rows_at_rank(adapters.averaging.manifest.trained_parameters(update.depth), update.rank)
    path = adapters.state.blobs.checked_path(update.blob_sha256)
    # Bounds held when it was accepted; they may have changed since, what is counted has not.
    tensors = read_update(path, rows, bounds=UpdateBounds()).tensors
    return bounded(tensors, largest_norm=update.clip_norm)


def close_round(turn: Turn, number: int, left: Left, evaluation: Evaluation | None) -> None:
    """Write down that the round is closed, with what it left."""
    current = turn.session.get_one(Round, number)
    current.state = "closed"
    current.closed_at_s = turn.now_s
    current.adapter_sha256 = left.adapter.sha256
    current.adapter_size_bytes = left.adapter.size_bytes
    current.mean_sha256 = left.mean_sha256
    current.moments_sha256 = left.moments_sha256
    result = "not evaluated"
    if evaluation is not None:
        record_evaluation(turn.session, number, evaluation)
        result = f"accuracy {evaluation.accuracy:.4f}, loss {evaluation.loss:.4f} on {evaluation.examples} examples"
    turn.session.flush()
    turn.events.append(f"round {number} closed after {turn.now_s - current.opened_at_s:.1f} s: {result}")
    taken_s = real_seconds(turn.session, number).values()
    if len(taken_s) > 1:
        turn.events.append(f"round {number}: {_waiting_line(waiting(taken_s), current)}")


def _waiting_line(waited: Waiting, current: Round) -> str:
    return (
        f"devices waited {waited.sum_s:.1f} s ({100 * waited.share:.0f} %) for the slowest; with depth "
        f"{current.uniform_depth} on all of them, {current.uniform_wait_s:.1f} s "
        f"({100 * current.uniform_wait_share:.0f} %) were expected"
    )


def record_evaluation(session: Session, number: int, evaluation: Evaluation) -> None:
    """Keep the evaluation of a round, 0 for the initial adapter."""
    session.merge(
        RoundEvaluation(
            round_number=number, accuracy=evaluation.accuracy, loss=evaluation.loss, examples=evaluation.examples
        )
    )
