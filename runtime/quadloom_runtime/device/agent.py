"""The device loop: enrol, check in, fetch, train, report, until the task is finished."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.contract.wire import (
    LARGEST_GRADIENT_NORM,
    Assignment,
    Capabilities,
    FailureReport,
    ReportResponse,
    UpdateReport,
)
from quadloom_runtime.crash_points import reach
from quadloom_runtime.data import EncodedData, Example, check_labels, encode
from quadloom_runtime.device.answers import RefusedError
from quadloom_runtime.device.client import ServerClient, ServerUnreachableError
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.device.family_copy import FamilyCopy, tokenizer_blob
from quadloom_runtime.device.state import DeviceState, update_bytes
from quadloom_runtime.device.training_process import LONGEST_MESSAGE, Trained, TrainingJob, train_in_process
from quadloom_runtime.durable_files import remove_unfinished
from quadloom_runtime.errors import QuadloomError

RETRY_AFTER_REFUSAL_S = 5.0
LATEST_EXTRA = 0.1
"""A device comes back up to this share later than it was told, so that a fleet does not come in step."""


@dataclass(frozen=True)
class DeviceOptions:
    """What kind of device this is.

    Attributes:
        name: what people call it; its key is what the server knows it by.
        capabilities: what the server is told; the memory limit and the threads in it are what training gets.
        slowdown: every step takes this many times as long as the machine needs.
        checkpoint_every_s: seconds of training after which progress is kept.
        enrolment_token: lets it in where it is not known yet.
        family_key: whose signature a family must have before anything of it is used; None takes any family.
    """

    name: str
    capabilities: Capabilities
    slowdown: float = 1.0
    checkpoint_every_s: float = 10.0
    enrolment_token: str | None = None
    family_key: Ed25519PublicKey | None = None


@dataclass(frozen=True)
class Transfer:
    """Bytes that crossed the link, and the seconds that they took, None if nobody timed all of them."""

    size_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class LocalData:
    """The examples of this device and the file that they came from."""

    source: Path
    examples: Sequence[Example]


class DeviceAgent:
    """One device. Everything that it keeps lies below `folder`."""

    def __init__(
        self, *, client: ServerClient, options: DeviceOptions, folder: Path, data: LocalData, events: EventLog
    ) -> None:
        self._client, self._options, self._data, self._events = client, options, data, events
        self._folder = folder
        self._state = DeviceState(folder / "state")
        cache = BlobCache(folder / "blobs")
        self._family = FamilyCopy(folder / "family", cache, client, events, options.family_key)
        self._encoded: tuple[str, EncodedData] | None = None
        self._last_upload: Transfer | None = None

    def run(self) -> None:
        """Work until the server says that the task is finished.

        Raises:
            ServerUnreachableError: no answer for as long as patience lasts.
            QuadloomError: the labels do not fit the family, or another device uses the folder.
        """
        with self._state.locked():
            remove_unfinished(self._folder)
            device_id = self._enrol()
            reach("enrolled-before-first-check-in")
            while True:
                try:
                    answer = self._client.check_in(device_id)
                except RefusedError as error:
                    if error.code != "unknown-device":
                        raise
                    self._wait(RETRY_AFTER_REFUSAL_S)
                    device_id = self._enrol()  # the server began anew and knows nobody
                    continue
                if answer.assignment is not None:
                    self._wait(self._do(answer.assignment))
                elif answer.task_state == "finished":
                    self._say_finished(answer.reason)
                    return
                else:
                    self._events.say("waiting", reason=answer.reason, retry_after_s=answer.retry_after_s)
                    self._wait(answer.retry_after_s)

    def _enrol(self) -> str:
        """Enrol, and check the local data against the family before any work is taken."""
        capabilities = self._options.capabilities
        answer = self._client.enrol(self._options.name, capabilities, token=self._options.enrolment_token)
        self._events.enrolled(self._options.name, capabilities, answer)
        num_labels = self._family.manifest(answer).task.num_labels
        check_labels(self._data.examples, num_labels=num_labels, source=self._data.source)
        return answer.device_id

    def _do(self, assignment: Assignment) -> float:
        """One assignment from download to report; returns after how many seconds to check in.

        What goes wrong with it is reported, and the loop goes on.
        """
        self._events.assigned(assignment)
        self._state.forget_all_but(assignment.assignment_id)
        try:
            update = self._state.load_update(assignment.assignment_id) or self._train(assignment)
            if isinstance(update, FailureReport):
                return self._report_failure(assignment, update)
            return self._report_update(assignment, update)
        except ServerUnreachableError:
            raise
        except QuadloomError as error:
            return self._report_failure(assignment, FailureReport(kind="other", message=str(error)[:LONGEST_MESSAGE]))

    def _train(self, assignment: Assignment) -> bytes | FailureReport:
        """Make the update, and keep it until the server has it."""
        manifest, download = self._fetch(assignment)
        self._events.say("fetched", downloaded_bytes=download.size_bytes)
        job = TrainingJob(
            assignment_id=assignment.assignment_id,
            family=self._family.folder,
            manifest=manifest,
            member=assignment.member,
            rank=assignment.rank,
            adapter=self._family.cache.path(assignment.adapter.sha256),
            data=self._encode(manifest),
            settings=assignment.settings,
            threads=self._options.capabilities.threads,
            memory_limit_bytes=self._options.capabilities.memory_limit_bytes,
            slowdown=self._options.slowdown,
            state=self._state,
            checkpoint_every_s=self._options.checkpoint_every_s,
        )
        trained = train_in_process(job, on_step=lambda step: self._events.stepped(assignment, step))
        if isinstance(trained, FailureReport):
            return trained
        report = update_report(trained, download=download, last_upload=self._last_upload)
        content = update_bytes(trained.outcome.update, report)
        self._state.save_update(assignment.assignment_id, content)
        reach("update-saved-before-upload")
        self._events.trained(assignment, trained)
        return content

    def _fetch(self, assignment: Assignment) -> tuple[FamilyManifest, Transfer]:
        """Bring the files of the assignment here; returns also how many bytes came for it, before a kill too."""
        here_bytes = self._family.size_here(assignment)
        here_at_first_bytes = self._state.bytes_here_at_first(assignment.assignment_id, here_bytes)
        before = replace(self._client.traffic)
        manifest = self._family.fetch(assignment)
        came_bytes = self._family.size_here(assignment) - here_at_first_bytes
        download_s = self._client.traffic.download_s - before.download_s
        # An altered file was here, and came all the same.
        size_bytes = max(came_bytes, self._client.traffic.down_bytes - before.down_bytes)
        return manifest, Transfer(size_bytes, download_s if here_bytes == here_at_first_bytes else None)

    def _encode(self, manifest: FamilyManifest) -> EncodedData:
        """The local data as this family's tokenizer encodes it, kept from round to round."""
        tokenizer = tokenizer_blob(manifest)
        if self._encoded is None or self._encoded[0] != tokenizer.sha256:
            path, length = self._family.folder / tokenizer.path, manifest.batch.sequence_length
            encoded = encode(self._data.examples, path, sequence_length=length, task=manifest.task.kind)
            self._encoded = (tokenizer.sha256, encoded)
        return self._encoded[1]

    def _report_update(self, assignment: Assignment, content: bytes) -> float:
        started = time.monotonic()
        response = self._client.report_update(assignment.assignment_id, content)
        self._last_upload = Transfer(len(content), time.monotonic() - started)
        reach("update-acknowledged-before-forgotten")
        self._forget(assignment)
        self._events.answered("reported", assignment, response, upload_bytes=len(content))
        return retry_after_s(assignment, response)

    def _report_failure(self, assignment: Assignment, report: FailureReport) -> float:
        self._events.failed(assignment, report)
        self._forget(assignment)
        try:
            response = self._client.report_failure(assignment.assignment_id, report)
        except RefusedError as error:
            self._events.say("refused", f"round {assignment.round_index}: {error}", message=str(error))
            return assignment.retry_after_rejected_s
        self._events.answered("failure-reported", assignment, response)
        return retry_after_s(assignment, response)

    def _forget(self, assignment: Assignment) -> None:
        """Nothing of the assignment is needed any more; the next round brings another adapter."""
        self._state.forget_all_but(None)
        self._family.cache.remove(assignment.adapter.sha256)

    def _say_finished(self, reason: str) -> None:
        traffic = self._client.traffic
        self._events.say(
            "finished",
            f"finished: {reason}",
            reason=reason,
            down_bytes=traffic.down_bytes,
            up_bytes=traffic.up_bytes,
        )

    def _wait(self, retry_after_s: float) -> None:
        self._client.wait(retry_after_s * random.uniform(1, 1 + LATEST_EXTRA))


def retry_after_s(assignment: Assignment, response: ReportResponse) -> float:
    """After how many seconds to check in again, as the assignment said beforehand."""
    return assignment.retry_after_rejected_s if response.status == "rejected" else assignment.retry_after_accepted_s


def update_report(trained: Trained, *, download: Transfer, last_upload: Transfer | None) -> UpdateReport:
    """The figures that travel with an update."""
    outcome = trained.outcome
    # Clipped steps are harmless however large the gradient was, and no more than this is taken.
    norms = tuple(min(norm, LARGEST_GRADIENT_NORM) for _layer, norm in sorted(outcome.gradient_norms.items()))
    return UpdateReport(
        examples=outcome.examples,
        steps=outcome.steps,
        loss_first=outcome.loss_first,
        loss_last=outcome.loss_last,
        train_s=outcome.train_s,
        baseline_bytes=trained.baseline_bytes,
        peak_step_bytes=trained.peak_step_bytes,
        downloaded_bytes=download.size_bytes,
        download_s=download.seconds,
        last_upload_bytes=None if last_upload is None else last_upload.size_bytes,
        last_upload_s=None if last_upload is None else last_upload.seconds,
        gradient_norms=norms,
    )
