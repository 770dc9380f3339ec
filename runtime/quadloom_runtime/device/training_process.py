"""The training of one assignment, in a process of its own.

A fresh process per assignment keeps the figures honest: no allocator holds memory of an earlier member, so limit and
peak count from the same idle state every time. And when the system kills a process for its memory, it is this one: the
agent lives on and reports it.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from quadloom_runtime.adapter_file import read_parameters
from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import FailureReport, TrainingSettings
from quadloom_runtime.crash_points import reach
from quadloom_runtime.data import EncodedData
from quadloom_runtime.device.measured_engine import MeasuredEngine
from quadloom_runtime.device.state import DeviceState
from quadloom_runtime.emulation.limits import UNTOUCHED_BYTES, check_peak, step_memory_limit
from quadloom_runtime.engines.rank import RankEngine
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import QuadloomError, StepOutOfMemoryError
from quadloom_runtime.memory import StepMemoryMeter
from quadloom_runtime.trainer import Checkpoint, OnStep, TrainingOutcome, train

LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class TrainingJob:
    """Everything that training an assignment needs.

    Attributes:
        family: folder with the files of the member, as the manifest names them.
        rank: LoRA rank at which it trains.
        adapter: safetensors file with the global value of every trainable tensor, at that rank.
        memory_limit_bytes: hard limit of a step beyond the loaded, idle process.
        slowdown: a step takes this many times as long as this machine needs.
        state: where checkpoints are kept, and an earlier one is looked for.
        checkpoint_every_s: seconds between checkpoints.
    """

    assignment_id: str
    family: Path
    manifest: FamilyManifest
    member: MemberKey
    rank: int
    adapter: Path
    data: EncodedData
    settings: TrainingSettings
    threads: int
    memory_limit_bytes: int
    slowdown: float
    state: DeviceState
    checkpoint_every_s: float


@dataclass(frozen=True)
class Stepped:
    """One optimizer step is made."""

    step: int
    steps: int
    loss: float
    peak_step_bytes: int


@dataclass(frozen=True)
class Trained:
    """The job is done. `resumed_at_step` is 0 unless it went on from a checkpoint."""

    outcome: TrainingOutcome
    baseline_bytes: int
    peak_step_bytes: int
    resumed_at_step: int


def train_in_process(job: TrainingJob, *, on_step: Callable[[Stepped], None]) -> Trained | FailureReport:
    """Run the job in a child process and wait for it; a failure of any kind comes back as its report."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, sending), daemon=True)
    process.start()
    sending.close()  # so that the end of the child is the end of the stream
    try:
        while isinstance(message := _received(receiving), Stepped):
            on_step(message)
        if message is not None:
            return message
        process.join()
        return _died(process.exitcode, member=job.member.label)
    finally:
        process.kill()
        process.join()
        receiving.close()


def _received(connection: Connection) -> Stepped | Trained | FailureReport | None:
    """The child's next message, None if it has ended."""
    try:
        message: Stepped | Trained | FailureReport = connection.recv()
    except (EOFError, OSError):  # an OSError where it was killed in the middle of a message
        return None
    return message


def run_job(job: TrainingJob, *, on_step: Callable[[Stepped], None]) -> Trained:
    """Train in this process.

    Raises:
        StepOutOfMemoryError: a step did not fit the limit.
        QuadloomError: the member cannot be loaded, or training diverged.
    """
    manifest = job.manifest
    table = rows_at_rank(manifest.parameters, job.rank)
    parameters = read_parameters(job.adapter, table, remedy="check the server and its state")
    engine = open_training_engine(job.family, manifest, job.member, threads=job.threads)
    if job.rank != manifest.lora.rank:
        engine = RankEngine(engine, manifest.parameters, job.rank)
    resume = job.state.load_checkpoint(job.assignment_id)
    meter = StepMemoryMeter()
    untouched_bytes = UNTOUCHED_BYTES.get(job.member.format, 0)
    with step_memory_limit(job.memory_limit_bytes, member=job.member.label, untouched_bytes=untouched_bytes):
        outcome = train(
            MeasuredEngine(engine, meter, job.slowdown, time.sleep),
            parameters,
            manifest.trained_parameters(job.member.depth),
            job.data,
            batch_size=manifest.batch.batch_size,
            settings=job.settings,
            resume=resume,
            on_step=_after_step(job, meter, on_step),
        )
    return Trained(outcome, meter.baseline_bytes, meter.peak_bytes, resume.step if resume else 0)


def _after_step(job: TrainingJob, meter: StepMemoryMeter, on_step: Callable[[Stepped], None]) -> OnStep:
    kept_at_s = time.monotonic()

    def after(checkpoint: Checkpoint, steps: int) -> None:
        nonlocal kept_at_s
        if job.member.format in UNTOUCHED_BYTES:
            check_peak(meter, job.memory_limit_bytes, member=job.member.label)
        reach("step-done-before-checkpoint")
        # The last step needs none: the update follows at once.
        if checkpoint.step < steps and time.monotonic() - kept_at_s >= job.checkpoint_every_s:
            job.state.save_checkpoint(job.assignment_id, checkpoint)
            reach("checkpoint-written")
            kept_at_s = time.monotonic()
        on_step(Stepped(checkpoint.step, steps, checkpoint.losses[-1], meter.peak_bytes))

    return after


def _work(job: TrainingJob, connection: Connection) -> None:
    """What the child process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in the terminal is the agent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result: Trained | FailureReport
    try:
        result = run_job(job, on_step=connection.send)
    except StepOutOfMemoryError as error:
        result = FailureReport(kind="out-of-memory", message=str(error)[:LONGEST_MESSAGE])
    except QuadloomError as error:
        result = FailureReport(kind="other", message=str(error)[:LONGEST_MESSAGE])
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        result = FailureReport(kind="other", message=f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE])
    connection.send(result)


def _end_with_parent() -> None:
    """A killed agent cannot end its child; the child must not train on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


ENDED_FOR_MEMORY = {
    signal.SIGKILL: "the system killed the training process",  # what it does when the machine runs out of memory
    signal.SIGABRT: "the training process was aborted, as native code does when it is refused memory",
}


def _died(exit_code: int | None, *, member: str) -> FailureReport:
    for number, detail in ENDED_FOR_MEMORY.items():
        if exit_code == -number:
            error = StepOutOfMemoryError(member=member, limit_bytes=None, detail=detail)
            return FailureReport(kind="out-of-memory", message=str(error))
    return FailureReport(kind="other", message=f"the training process of member {member} ended with status {exit_code}")
