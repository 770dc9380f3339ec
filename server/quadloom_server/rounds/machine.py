"""Rounds: a state machine over the store.

    enough devices -> open -> enough updates, and nothing outstanding or past the deadline -> closing -> closed -> next

Where updates may be late (`RoundPolicy.largest_staleness`), only what would become too late is outstanding, and an
update that comes while its round is not open any more counts in the next one.
All state is in the database and every request is one transaction, so a killed server continues where it was. What
takes long, aggregating and evaluating, happens in the background while the round is ``closing``; devices that check in
meanwhile are told when to come back.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.signatures import RequestSignature
from quadloom_runtime.contract.status import TaskStatus
from quadloom_runtime.contract.wire import (
    Assignment,
    CheckInResponse,
    EnrolRequest,
    EnrolResponse,
    FailureReport,
    ReportResponse,
    TrainingSettings,
)
from quadloom_runtime.crash_points import reach
from quadloom_runtime.durable_files import sync_file
from quadloom_server.aggregation.validation import InvalidUpdateError, read_update
from quadloom_server.errors import RevokedDeviceError, UnknownAssignmentError, UnknownDeviceError
from quadloom_server.family import ServedFamily
from quadloom_server.rounds import control, reports
from quadloom_server.rounds.assigning import assignment_message, settings_of
from quadloom_server.rounds.averaging import averaging_of
from quadloom_server.rounds.bounds import update_bounds
from quadloom_server.rounds.closing import Left, aggregated, close_round, mean_after, record_evaluation, restore_latest
from quadloom_server.rounds.device_adapters import DeviceAdapters
from quadloom_server.rounds.enrolling import check_rank, enrol_device
from quadloom_server.rounds.evaluation import Evaluator, evaluate_checked
from quadloom_server.rounds.knowledge import capabilities_of
from quadloom_server.rounds.lifecycle import advance, finished_reason, why_no_round
from quadloom_server.rounds.moments import keep_moments
from quadloom_server.rounds.planning import RoundPlanning
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.rounds.status import task_status
from quadloom_server.rounds.turn import Turn
from quadloom_server.rounds.work import NoWork, Work, work_for
from quadloom_server.state import ServerState
from quadloom_server.store import queries, tables
from quadloom_server.store.uploads import ReceivedUpload

Background = Callable[[Callable[[], None]], None]
"""Takes a job and runs it some time later, one at a time."""


@dataclass(kw_only=True)
class Rounds:
    """The task as devices see it. Thread-safe; no method blocks for longer than a small transaction.

    Attributes:
        evaluator: judges each round's adapter, None to train without.
        background: where rounds are closed.
        clock: seconds since the epoch.
        announce: takes one line per event, for people.
        told_finished: devices that know there is no more work, since this process started.
    """

    family: ServedFamily
    state: ServerState
    policy: RoundPolicy
    settings: TrainingSettings
    background: Background
    evaluator: Evaluator | None = None
    clock: Callable[[], float] = time.time
    announce: Callable[[str], None] = print
    told_finished: set[str] = field(default_factory=set)
    planning: RoundPlanning = field(init=False)
    adapters: DeviceAdapters = field(init=False)

    def __post_init__(self) -> None:
        self.planning = RoundPlanning(self.policy, self.family, self.settings)
        self.adapters = DeviceAdapters(self.state, averaging_of(self.policy, self.family.manifest))

    def start(self) -> None:
        """Continue where the state is: evaluate the initial adapter if nobody has, close a round that was closing."""
        self._remove_unneeded_blobs()
        with self.turn() as turn:
            evaluated = queries.round_evaluation(turn.session, 0) is not None
            current = queries.latest_round(turn.session)
            if current is not None:
                turn.events.append(f"continuing with round {current.number}, which is {current.state}")
                turn.closing = current.number if current.state == "closing" else None
                too_late = queries.counting_round(turn.session) - self.policy.largest_staleness - 1
                queries.expire_open_assignments(turn.session, until_round=too_late)
            last_closed = queries.last_closed_round(turn.session)
            restore_latest(last_closed, self.state.adapters, mean_share=self.policy.mean_share)
            self.advance(turn)
        if self.evaluator is not None and not evaluated:
            self.background(partial(self._evaluate_initial, self.evaluator))

    def tick(self) -> None:
        """Let time act: deadlines pass also when no device calls."""
        with self.turn() as turn:
            self.advance(turn)

    def advance(self, turn: Turn) -> None:
        """Do what is due now."""
        advance(turn, self.policy, self.planning)

    def enrol(self, request: EnrolRequest, signature: RequestSignature) -> EnrolResponse:
        """Register a device, or take the new capabilities of a known one.

        Raises:
            RefusedRequestError: it may not come in; see `enrol_device`.
        """
        with self.turn() as turn:
            device = enrol_device(turn, request, signature, max_devices=self.policy.max_devices)
            check_rank(turn.session, self.adapters, request.capabilities)
            self.advance(turn)
            return EnrolResponse(
                device_id=device.id,
                manifest_sha256=self.family.manifest_sha256,
                manifest_signature=self.family.signature,
            )

    def check_in(self, device_id: str) -> CheckInResponse:
        """Give the device its work, or say when to come back.

        Raises:
            UnknownDeviceError: this device never enrolled.
        """
        with self.turn() as turn:
            device = turn.session.get(tables.Device, device_id)
            if device is None:
                raise UnknownDeviceError(device_id)
            if device.revoked_at_s is not None:
                raise RevokedDeviceError(device.name)
            self.advance(turn)
            finished = finished_reason(turn.session, self.policy)
            if finished is not None:
                self.told_finished.add(device_id)
                return CheckInResponse(task_state="finished", assignment=None, retry_after_s=0, reason=finished)
            if control.is_paused(turn.session):
                return self._come_back(control.PAUSED).model_copy(update={"task_state": "paused"})
            current = queries.latest_round(turn.session)
            if current is None or current.state != "open":
                return self._come_back(why_no_round(turn.session, current, self.policy))
            found = work_for(turn, device, current, planning=self.planning)
            if isinstance(found, NoWork):
                return self._come_back(found.reason)
            return CheckInResponse(
                task_state="running",
                assignment=self._message(turn, found, current),
                retry_after_s=self.policy.retry_after_s,
                reason=found.row.reason,
            )

    def report_update(self, assignment_id: str, upload: ReceivedUpload) -> ReportResponse:
        """Check an update and count it, exactly once; one that counts is moved out of the uploads.

        It is on the disk and in the database before it is answered. Content that is not what the assignment asked for
        ends the assignment and is answered ``rejected``.

        Raises:
            UnknownAssignmentError: no such assignment.
        """
        with self.turn() as turn:
            row = self._assignment(turn, assignment_id)
            settled = reports.already_settled(turn, row, self.policy)
            if settled is not None:
                return settled
            capabilities = capabilities_of(turn.session.get_one(tables.Device, row.device_id))
            expected = rows_at_rank(self.family.manifest.trained_parameters(row.depth), row.rank)
            settings = settings_of(row)
        batch_size = self.family.manifest.batch.batch_size
        bounds = update_bounds(self.policy, settings, capabilities, batch_size=batch_size)
        try:
            update = read_update(upload.path, expected, bounds=bounds)
        except InvalidUpdateError as error:
            rejected = ReportResponse(status="rejected", reason=error.cause)
            return self._fail(assignment_id, answer=rejected, kind="rejected", message=error.cause)
        sync_file(upload.path)
        with self.turn() as turn:
            row = self._assignment(turn, assignment_id)
            settled = reports.already_settled(turn, row, self.policy)
            if settled is not None:
                return settled
            # In the turn, so that no closing round clears it away before it counts.
            self.state.blobs.adopt(upload.path, upload.sha256)
            reach("upload-stored-before-commit")
            reports.accept(turn, row, update, upload, policy=self.policy)
            self.advance(turn)
        return ReportResponse(status="accepted", reason="counted")

    def report_failure(self, assignment_id: str, report: FailureReport) -> ReportResponse:
        """End an assignment that the device could not do; after out-of-memory it gets a smaller member.

        Raises:
            UnknownAssignmentError: no such assignment.
        """
        noted = ReportResponse(status="accepted", reason="failure noted")
        return self._fail(assignment_id, answer=noted, kind=report.kind, message=report.message)

    def task_status(self) -> TaskStatus:
        """Everything that people see."""
        with self.state.sessions() as session:
            return task_status(session, task_id=self.state.task_id, policy=self.policy, now_s=self.clock())

    def every_device_knows(self) -> bool:
        """Whether the task is finished and every enrolled device has been told since this process started."""
        with self.state.sessions() as session:
            finished = finished_reason(session, self.policy) is not None
            return finished and queries.device_ids(session) <= self.told_finished

    def is_finished(self) -> bool:
        """Whether no more work will come."""
        with self.state.sessions() as session:
            return finished_reason(session, self.policy) is not None

    def _close(self, number: int) -> None:
        stored, optimizer = self.state.adapters, self.policy.server_step
        parameters, moments = aggregated(number, self.adapters, optimizer)
        mean = mean_after(number, parameters, stored, mean_share=self.policy.mean_share)
        left = Left(
            adapter=stored.write(number, parameters),
            mean_sha256=None if mean is None else stored.write_mean(number, mean),
            moments_sha256=keep_moments(self.state, moments, optimizer),
        )
        shown = parameters if mean is None else mean
        evaluation = None if self.evaluator is None else evaluate_checked(self.evaluator, shown, round_number=number)
        stored.point_latest(number, mean=mean is not None)
        lower_ranks = self.adapters.lower_ranks(number)
        reach("adapter-written-before-commit")
        with self.turn() as turn:
            for rank, content in lower_ranks.items():
                self.adapters.keep(turn.session, number, rank, content)
            close_round(turn, number, left, evaluation)
            self.advance(turn)
            finished = finished_reason(turn.session, self.policy)
            if finished is not None:
                turn.events.append(f"finished: {finished}")
        reach("round-closed-before-cleanup")
        self._remove_unneeded_blobs()

    def _remove_unneeded_blobs(self) -> None:
        """Remove updates that are folded into a durable adapter, and what a killed server stored but never counted."""
        with self.turn() as turn:
            needed = queries.blobs_to_keep(turn.session, also_closed=self.policy.keep_updates)
            self.state.blobs.keep_only(needed | {self.family.manifest_sha256})

    def _evaluate_initial(self, evaluator: Evaluator) -> None:
        evaluation = evaluate_checked(evaluator, self.state.adapters.read(0), round_number=0)
        with self.turn() as turn:
            record_evaluation(turn.session, 0, evaluation)
            turn.events.append(
                f"initial adapter: accuracy {evaluation.accuracy:.4f}, loss {evaluation.loss:.4f} "
                f"on {evaluation.examples} examples"
            )

    def _fail(self, assignment_id: str, *, answer: ReportResponse, kind: str, message: str) -> ReportResponse:
        with self.turn() as turn:
            row = self._assignment(turn, assignment_id)
            settled = reports.already_settled(turn, row, self.policy)
            if settled is not None and not (settled.status == "late" and kind == "out-of-memory"):
                return settled
            # Too late for its round, what a device has no memory for is news for the next.
            reports.fail(turn, row, kind=kind, message=message)
            self.advance(turn)
        return settled or answer

    def _message(self, turn: Turn, work: Work, current: tables.Round) -> Assignment:
        return assignment_message(
            work.row,
            work.member,
            task_id=self.state.task_id,
            family=self.family,
            adapter=self.adapters.reference(turn.session, work.row.round_number - 1, work.row.rank),
            policy=self.policy,
            deadline_s=max(0.0, current.deadline_at_s - turn.now_s),
        )

    def _come_back(self, reason: str) -> CheckInResponse:
        return CheckInResponse(
            task_state="running", assignment=None, retry_after_s=self.policy.retry_after_s, reason=reason
        )

    def _assignment(self, turn: Turn, assignment_id: str) -> tables.Assignment:
        row = turn.session.get(tables.Assignment, assignment_id)
        if row is None:
            raise UnknownAssignmentError(assignment_id)
        device = turn.session.get_one(tables.Device, row.device_id)
        if device.revoked_at_s is not None:  # since its request began: an upload takes its time
            raise RevokedDeviceError(device.name)
        return row

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """One transaction at a time; what follows from it happens after the commit, outside the lock."""
        with self.state.writing, self.state.sessions.begin() as session:
            turn = Turn(session, self.clock())
            yield turn
        try:
            for event in turn.events:
                self.announce(event)
        finally:
            if turn.closing is not None:
                reach("round-closing-committed")
                self.background(partial(self._close, turn.closing))
