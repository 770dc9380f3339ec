"""What a device says while it works: a line for people, and a JSON line for programs.

Every JSON line has `time_s` (seconds since 1970) and `event`:

| event | further fields |
|---|---|
| enrolled | device_id |
| assigned | assignment_id, round_index, member, depth, quantized_layers, recompute_percent, format, rank, reason |
| downloading | name, sha256 |
| fetched | downloaded_bytes |
| step | round_index, step, steps, loss, peak_step_bytes |
| trained | round_index, steps, resumed_at_step, train_s, baseline_bytes, peak_step_bytes |
| reported | round_index, status, reason, upload_bytes |
| out-of-memory, failed | round_index, member, message |
| failure-reported | round_index, status, reason |
| refused | message |
| retrying | cause, wait_s |
| waiting | reason, retry_after_s |
| finished | reason, down_bytes, up_bytes |
"""

import json
import time
from pathlib import Path
from typing import Any, TextIO

from quadloom_runtime.contract.wire import Assignment, Capabilities, EnrolResponse, FailureReport, ReportResponse
from quadloom_runtime.device.training_process import Stepped, Trained
from quadloom_runtime.durable_files import make_folder, using
from quadloom_runtime.units import format_bytes


class EventLog:
    """Prints events and, if asked to, appends them to a file as JSON lines."""

    def __init__(self, path: Path | None = None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            make_folder(path.parent)
            with using(path):
                self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def say(self, event: str, line: str | None = None, **details: Any) -> None:
        """Record one event; `line` is what people read (None: nothing)."""
        if self._file is not None:
            self._file.write(json.dumps({"time_s": time.time(), "event": event, **details}) + "\n")
            self._file.flush()
        if line is not None:
            # Some words are the server's: what is not printable must not reach a terminal.
            print("".join(each if each.isprintable() else " " for each in line), flush=True)

    def enrolled(self, name: str, capabilities: Capabilities, answer: EnrolResponse) -> None:
        """The server knows this device."""
        self.say(
            "enrolled",
            f"enrolled as {name}: {capabilities.examples} examples, threads {capabilities.threads}, "
            f"{format_bytes(capabilities.memory_limit_bytes)} for a step",
            device_id=answer.device_id,
        )

    def assigned(self, assignment: Assignment) -> None:
        """There is work."""
        key = assignment.member
        self.say(
            "assigned",
            f"round {assignment.round_index}: {key.label} at rank {assignment.rank}, {assignment.reason}",
            assignment_id=assignment.assignment_id,
            round_index=assignment.round_index,
            member=key.label,
            depth=key.depth,
            quantized_layers=key.quantized_layers,
            recompute_percent=key.recompute_percent,
            format=key.format,
            rank=assignment.rank,
            reason=assignment.reason,
        )

    def stepped(self, assignment: Assignment, step: Stepped) -> None:
        """One optimizer step is made."""
        self.say(
            "step",
            f"round {assignment.round_index}: step {step.step}/{step.steps}, loss {step.loss:.4f}",
            round_index=assignment.round_index,
            step=step.step,
            steps=step.steps,
            loss=step.loss,
            peak_step_bytes=step.peak_step_bytes,
        )

    def trained(self, assignment: Assignment, trained: Trained) -> None:
        """All steps are made."""
        outcome = trained.outcome
        resumed = f", resumed after step {trained.resumed_at_step}" if trained.resumed_at_step else ""
        self.say(
            "trained",
            f"round {assignment.round_index}: {outcome.steps} steps in {outcome.train_s:.1f} s{resumed}, loss "
            f"{outcome.loss_first:.4f} -> {outcome.loss_last:.4f}, peak {format_bytes(trained.peak_step_bytes)}",
            round_index=assignment.round_index,
            steps=outcome.steps,
            resumed_at_step=trained.resumed_at_step,
            train_s=outcome.train_s,
            baseline_bytes=trained.baseline_bytes,
            peak_step_bytes=trained.peak_step_bytes,
        )

    def failed(self, assignment: Assignment, report: FailureReport) -> None:
        """The assignment cannot be done."""
        self.say(
            "out-of-memory" if report.kind == "out-of-memory" else "failed",
            f"round {assignment.round_index}: {report.message}",
            round_index=assignment.round_index,
            member=assignment.member.label,
            message=report.message,
        )

    def answered(self, event: str, assignment: Assignment, response: ReportResponse, **details: int) -> None:
        """The server said what became of a report."""
        self.say(
            event,
            f"round {assignment.round_index}: {event}, {response.status}: {response.reason}",
            round_index=assignment.round_index,
            status=response.status,
            reason=response.reason,
            **details,
        )
