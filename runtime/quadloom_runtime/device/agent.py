"""The device loop: enrol, check in, fetch, train, report, until the task is finished."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import Assignment, Capabilities, FailureReport, ReportResponse, UpdateReport
from quadloom_runtime.data import EncodedData, Example, encode
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.device.measured_engine import MeasuredEngine
from quadloom_runtime.device.state import DeviceState, update_bytes
from quadloom_runtime.emulation.limits import idle_data_bytes, step_memory_limit
from quadloom_runtime.engines.engine import TrainingEngine
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.family_folder import parse_manifest
from quadloom_runtime.memory import StepMemoryMeter
from quadloom_runtime.trainer import Checkpoint, TrainingOutcome, train
from quadloom_runtime.units import format_bytes

LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class DeviceOptions:
    """What kind of device this is.

    Attributes:
        name: identity towards the server; the same name after a restart continues its work.
        memory_limit_bytes: hard limit of a training step beyond the loaded, idle process; None for no limit.
        slowdown: every step takes this many times as long as the machine needs.
        checkpoint_every_s: seconds of training after which progress is kept.
    """

    name: str
    capabilities: Capabilities
    memory_limit_bytes: int | None = None
    slowdown: float = 1.0
    checkpoint_every_s: float = 10.0


@dataclass
class DeviceAgent:
    """One device. `load_data` reads the local examples once the number of labels is known."""

    client: ServerClient
    options: DeviceOptions
    cache: BlobCache
    state: DeviceState
    load_data: Callable[[int], list[Example]]
    events: EventLog

    def __post_init__(self) -> None:
        self._manifest: FamilyManifest | None = None
        self._encoded: EncodedData | None = None
        self._engine: tuple[MemberKey, TrainingEngine] | None = None
        self._meter: StepMemoryMeter | None = None
        self._idle_data_bytes = 0

    def run(self) -> None:
        """Work until the server says that the task is finished."""
        enrolled = self.client.enrol(self.options.name, self.options.capabilities)
        self.events.say("enrolled", f"enrolled as {self.options.name} ({enrolled.device_id})")
        while True:
            answer = self.client.check_in(enrolled.device_id)
            if answer.assignment is not None:
                response = self._do(answer.assignment)
                retry_after_s = response.retry_after_s
            elif answer.task_state == "finished":
                self.events.say("finished", f"finished: {answer.reason}")
                return
            else:
                self.events.say("waiting", reason=answer.reason)
                retry_after_s = answer.retry_after_s
            self.client.sleep(retry_after_s)

    def _do(self, assignment: Assignment) -> ReportResponse:
        """One assignment from download to report. Running out of memory is reported, not fatal."""
        label = assignment.member.label
        self.events.say(
            "assigned",
            f"round {assignment.round_index}: {label}, {assignment.reason}",
            round_index=assignment.round_index,
            member=label,
            depth=assignment.member.depth,
            quantized_layers=assignment.member.quantized_layers,
            reason=assignment.reason,
        )
        before = self.client.traffic.down_bytes
        manifest = self._fetch(assignment)
        downloaded_bytes = self.client.traffic.down_bytes - before
        self.events.say("fetched", downloaded_bytes=downloaded_bytes)
        try:
            outcome = self._train(assignment, manifest)
        except StepOutOfMemoryError as error:
            self.events.say("out-of-memory", f"round {assignment.round_index}: {error}", member=label)
            report = FailureReport(kind="out-of-memory", message=str(error)[:LONGEST_MESSAGE])
            self.state.forget_progress()
            self._engine = None
            return self.client.report_failure(assignment.assignment_id, report)
        response = self._report(assignment, outcome, downloaded_bytes)
        self.state.forget_progress()
        return response

    def _report(self, assignment: Assignment, outcome: TrainingOutcome, downloaded_bytes: int) -> ReportResponse:
        assert self._meter is not None
        report = UpdateReport(
            examples=outcome.examples,
            steps=outcome.steps,
            loss_first=outcome.loss_first,
            loss_last=outcome.loss_last,
            train_s=outcome.train_s,
            baseline_bytes=self._meter.baseline_bytes,
            peak_step_bytes=self._meter.peak_bytes,
            downloaded_bytes=downloaded_bytes,
        )
        content = update_bytes(outcome.update, report)
        response = self.client.report_update(assignment.assignment_id, content)
        self.events.say(
            "reported",
            f"round {assignment.round_index}: {outcome.steps} steps in {outcome.train_s:.1f} s, loss "
            f"{outcome.loss_first:.3f} -> {outcome.loss_last:.3f}, peak {format_bytes(self._meter.peak_bytes)}; "
            f"update {response.status}: {response.reason}",
            round_index=assignment.round_index,
            status=response.status,
            peak_step_bytes=self._meter.peak_bytes,
            train_s=outcome.train_s,
            upload_bytes=len(content),
            loss=outcome.loss_last,
        )
        return response

    @property
    def _family(self) -> Path:
        return self.state.folder / "family"

    def _fetch(self, assignment: Assignment) -> FamilyManifest:
        """Bring every file of the assignment here, checked, and lay them out as a family folder."""
        self.client.fetch(assignment.manifest_sha256, self.cache)
        if self._manifest is None:
            path = self.cache.path(assignment.manifest_sha256)
            self._manifest = parse_manifest(path.read_bytes(), source="the server's manifest")
        for blob in (*assignment.blobs, assignment.adapter):
            self.client.fetch(blob.sha256, self.cache)
        for blob in assignment.blobs:
            self.cache.link_into(self._family, blob)
        return self._manifest

    def _train(self, assignment: Assignment, manifest: FamilyManifest) -> TrainingOutcome:
        if self._encoded is None:
            examples = self.load_data(manifest.task.num_labels)
            self._encoded = encode(examples, self._family / "tokenizer" / "tokenizer.json")
        engine = self._open_engine(assignment.member, manifest)
        parameters = load_file(self.cache.path(assignment.adapter.sha256))
        trained = manifest.trained_parameters(assignment.member.depth)
        progress = self.state.load_progress(assignment.assignment_id)
        if progress.step:
            self.events.say("resumed", f"resuming at step {progress.step}", step=progress.step)
        limit = self.options.memory_limit_bytes
        with step_memory_limit(limit, idle_data_bytes=self._idle_data_bytes, member=assignment.member.label):
            return train(
                engine,
                parameters,
                trained,
                self._encoded,
                batch_size=manifest.batch.batch_size,
                settings=assignment.settings,
                resume=progress,
                on_step=self._after_step(assignment),
            )

    def _open_engine(self, key: MemberKey, manifest: FamilyManifest) -> TrainingEngine:
        """Load the member, unless it is the one of the last round, and measure it from before its first step."""
        if self._engine is None or self._engine[0] != key:
            self._engine = None
            engine = open_training_engine(self._family, manifest, key, threads=self.options.capabilities.threads)
            if self._meter is None:
                self._idle_data_bytes = idle_data_bytes()
            self._meter = StepMemoryMeter()
            self._engine = (key, MeasuredEngine(engine, self._meter, self.options.slowdown, self.client.sleep))
        return self._engine[1]

    def _after_step(self, assignment: Assignment) -> Callable[[Checkpoint, int], None]:
        last_kept = time.monotonic()

        def after(progress: Checkpoint, steps: int) -> None:
            nonlocal last_kept
            self.events.say(
                "step", round_index=assignment.round_index, step=progress.step, steps=steps, loss=progress.losses[-1]
            )
            if time.monotonic() - last_kept >= self.options.checkpoint_every_s:
                self.state.save_progress(assignment.assignment_id, progress)
                last_kept = time.monotonic()

        return after
