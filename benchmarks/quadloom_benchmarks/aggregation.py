"""`quadloom bench aggregation`: what each way of aggregating mixed ranks costs the server, as a table.

``python -m quadloom_benchmarks.aggregation METHOD DEVICES`` measures one row in a process of its own, and prints JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quadloom_benchmarks.server_family import HIDDEN, TARGETS, parameter_table
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.measurement import ONE_THREAD
from quadloom_runtime.memory import StepMemoryMeter
from quadloom_server.aggregation.adapter_layout import adapter_layout
from quadloom_server.aggregation.method import Aggregation, TrainedUpdate
from quadloom_server.aggregation.methods.select import METHODS, make_aggregation

LAYERS, RANKS, ALPHA = 6, (2, 4, 8, 16), 16.0


@dataclass(frozen=True)
class RoundCost:
    """One round of one method on one thread.

    Attributes:
        fold_s: processor time of folding all updates.
        finish_s: of the next global adapter; the decompositions are most of it.
        rank_s: of giving one device its adapter, mean over the ranks.
        peak_bytes: largest anonymous memory beyond the idle process, while one update at a time came in.
        adapter_bytes: size of the next global adapter.
    """

    fold_s: float
    finish_s: float
    rank_s: float
    peak_bytes: int
    adapter_bytes: int


def report_aggregation(rounds: tuple[int, ...]) -> None:
    """Measure and print the table, for rounds of so many updates."""
    print(
        f"{LAYERS} layers, {' and '.join(TARGETS)}, {HIDDEN} wide, all trained; devices of rank "
        f"{', '.join(map(str, RANKS))} in turn, no two updates alike\n"
        "processor time on 1 thread, finish and at rank for one layer; peak beyond the idle process, with one update "
        "in it; fresh process per method and number of updates"
    )
    print(
        f"{'method':>16}{'updates/s':>11}{'finish ms':>11}{'at rank ms':>12}"
        + "".join(f"{f'peak MB at {each}':>17}" for each in rounds)
        + f"{'adapter MB':>12}"
    )
    for name in METHODS:
        costs = [_measured(name, each) for each in rounds]
        print(_row(name, rounds[-1], costs), flush=True)


def _row(name: str, devices: int, costs: list[RoundCost]) -> str:
    last = costs[-1]
    return (
        f"{name:>16}{devices / last.fold_s:>11.0f}{1e3 * last.finish_s / LAYERS:>11.2f}"
        f"{1e3 * last.rank_s / LAYERS:>12.2f}"
        + "".join(f"{each.peak_bytes / 1e6:>17.1f}" for each in costs)
        + f"{last.adapter_bytes / 1e6:>12.2f}"
    )


def _measured(name: str, devices: int) -> RoundCost:
    command = [sys.executable, "-m", "quadloom_benchmarks.aggregation", name, str(devices)]
    environment = os.environ | ONE_THREAD | {"OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise QuadloomError(
            f"{name} failed with {devices} updates: {ended.stderr.strip()[-1000:]}", remedy="run with fewer --devices"
        )
    return RoundCost(**json.loads(ended.stdout))


def measure_here(name: str, devices: int) -> RoundCost:
    """Measure in this process, which has done nothing else."""
    layout = adapter_layout(parameter_table(layers=LAYERS, rank=RANKS[-1]), alpha=ALPHA, device_ranks=RANKS)
    method = make_aggregation(name, layout)
    parameters = _adapter()
    starts = {rank: method.at_rank(parameters, rank) for rank in RANKS}
    fold_s, state, meter = 0.0, method.begin(), StepMemoryMeter()
    with meter:
        for update in _updates(starts, devices):
            started = time.process_time()
            state = method.fold(state, update)
            fold_s += time.process_time() - started
        started = time.process_time()
        found = method.finish(parameters, state)
        finish_s = time.process_time() - started
    return RoundCost(
        fold_s,
        finish_s,
        _rank_seconds(method, found),
        meter.peak_bytes,
        sum(each.nbytes for each in found.values()),
    )


def _rank_seconds(method: Aggregation[Any], parameters: dict[str, FloatArray]) -> float:
    started = time.process_time()
    for rank in RANKS:
        method.at_rank(parameters, rank)
    return (time.process_time() - started) / len(RANKS)


def _adapter() -> dict[str, FloatArray]:
    random = np.random.default_rng(0)
    table = parameter_table(layers=LAYERS, rank=RANKS[-1])
    return {row.name: random.standard_normal(row.shape, dtype=np.float32) for row in table}


def _updates(starts: dict[int, dict[str, FloatArray]], devices: int) -> Iterator[TrainedUpdate]:
    """Random changes, so that the sum has no low rank and nothing can be dropped."""
    random, ranks = np.random.default_rng(1), sorted(starts)
    for number in range(devices):
        start = starts[ranks[number % len(ranks)]]
        trained = {
            name: value + np.float32(0.1) * random.standard_normal(value.shape, dtype=np.float32)
            for name, value in start.items()
        }
        yield TrainedUpdate(start=start, trained=trained, weight=float(random.integers(1, 1000)))


if __name__ == "__main__":
    print(json.dumps(asdict(measure_here(sys.argv[1], int(sys.argv[2])))))
