"""What the server knows of its devices when it plans: capabilities, and what their stored reports say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from sqlalchemy.orm import Session

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, MemberSpec
from quadloom_runtime.contract.wire import Capabilities, TrainingSettings
from quadloom_runtime.trainer import planned_steps
from quadloom_server.planning.calibration import SHORTEST_STEP_S, TrainingReport, TransferReport, calibrated
from quadloom_server.planning.cost_model import DeviceCost, ReferenceCost, step_s
from quadloom_server.planning.member_memory import as_demanding_as
from quadloom_server.planning.memory_estimate import MemoryEstimate, after_out_of_memory, after_step
from quadloom_server.planning.round_plan import PlannedDevice
from quadloom_server.store import history, plans
from quadloom_server.store.history import OutOfMemory, ReportedWork
from quadloom_server.store.tables import Device


def planned_devices(
    session: Session,
    devices: Sequence[Device],
    *,
    round_number: int,
    manifest: FamilyManifest,
    references: Mapping[MemberKey, ReferenceCost],
    settings: TrainingSettings,
) -> tuple[PlannedDevice, ...]:
    """The devices as a planner sees them, from a fixed number of queries."""
    only = devices[0].id if len(devices) == 1 else None
    reported = history.reported_work(session, device_id=only)
    failed = history.failures_for_memory(session, device_id=only)
    peaks = history.largest_peaks(session, device_id=only)
    fetched = history.members_fetched(session, device_id=only)
    included, first_planned = plans.rounds_last_included(session), plans.rounds_first_planned(session)
    members = {each.key: each for each in manifest.members}
    understated = understatement(history.reported_in(session, round_number - 1), references)
    found = []
    for device in devices:
        capabilities = capabilities_of(device)
        limit_bytes = capabilities.memory_limit_bytes
        failures = failed.get(device.id, ())
        found.append(
            PlannedDevice(
                name=device.name,
                capabilities=capabilities,
                cost=device_cost(
                    capabilities,
                    references,
                    reported.get(device.id, ()),
                    family_rank=manifest.lora.rank,
                    understated=understated,
                ),
                memory=memory_estimate(members, failures, peaks.get(device.id, {}), rank=capabilities.rank),
                # One that failed under a smaller limit may fit now.
                excluded=frozenset(
                    key
                    for each in failures
                    if each.limit_bytes >= limit_bytes
                    for key in as_demanding_as(each.member, manifest.members)
                ),
                fetched=frozenset(fetched.get(device.id, ())) & members.keys(),
                rounds_since_included=_rounds_since(
                    round_number, included=included.get(device.id), first_planned=first_planned.get(device.id)
                ),
                steps=graph_steps(capabilities, batch_size=manifest.batch.batch_size, settings=settings),
            )
        )
    return tuple(found)


def capabilities_of(device: Device) -> Capabilities:
    """What the device said it can do."""
    return Capabilities.model_validate(device.capabilities)


def understatement(
    reported: Sequence[ReportedWork],
    references: Mapping[MemberKey, ReferenceCost],
) -> float:
    """By what factor devices are slower than they state, the median over their reports; 1 without any.

    All state their speed against one reference machine, whose own times may be estimates. Without this factor a device
    that has not reported yet would seem faster, or slower, than those that have.
    """
    factors = []
    for each in reported:
        if each.member in references and each.report.train_s >= SHORTEST_STEP_S * each.graph_steps:
            stated_s = step_s(DeviceCost(slowdown=each.stated_slowdown), references[each.member])
            factors.append(each.report.train_s / each.graph_steps / max(stated_s, SHORTEST_STEP_S))
    return median(factors) if factors else 1.0


def device_cost(
    capabilities: Capabilities,
    references: Mapping[MemberKey, ReferenceCost],
    reported: Sequence[ReportedWork],
    *,
    family_rank: int,
    understated: float,
) -> DeviceCost:
    """What the device says of itself, corrected by what it reported, oldest first.

    Args:
        understated: the factor by which devices are usually slower than they state.
    """
    assumed = DeviceCost(
        slowdown=capabilities.slowdown * understated,
        download_bytes_per_s=capabilities.download_bytes_per_s,
        upload_bytes_per_s=capabilities.upload_bytes_per_s,
        rank_share=(capabilities.rank or family_rank) / family_rank,
    )
    reports = [each.report for each in reported]
    return calibrated(
        assumed,
        references,
        training=[TrainingReport(each.member, each.graph_steps, each.report.train_s) for each in reported],
        downloads=[
            TransferReport(each.downloaded_bytes, each.download_s) for each in reports if each.download_s is not None
        ],
        uploads=[
            TransferReport(each.last_upload_bytes, each.last_upload_s)
            for each in reports
            if each.last_upload_bytes is not None and each.last_upload_s is not None
        ],
    )


def memory_estimate(
    members: Mapping[MemberKey, MemberSpec],
    failures: Sequence[OutOfMemory],
    peaks: Mapping[tuple[MemberKey, int], int],
    *,
    rank: int | None,
) -> MemoryEstimate:
    """The family's estimate, corrected by what ran out of memory and by measured peaks; unknown members say nothing.

    Args:
        peaks: in bytes, by member and LoRA rank.
        rank: at which the device trains, unless the planner chooses a lower one; None for the family's.
    """
    estimate = MemoryEstimate(rank=rank)
    for failure in failures:
        if failure.member in members:
            at_rank = replace(estimate, rank=failure.rank)
            estimate = after_out_of_memory(at_rank, members[failure.member], limit_bytes=failure.limit_bytes)
    for (key, trained_rank), peak_bytes in peaks.items():
        if key in members:
            estimate = after_step(replace(estimate, rank=trained_rank), members[key], peak_bytes=peak_bytes)
    return replace(estimate, rank=rank)


def graph_steps(capabilities: Capabilities, *, batch_size: int, settings: TrainingSettings) -> int:
    """Times that the device runs its training graph in a round: once for every batch of an optimizer step."""
    return planned_steps(capabilities.examples, batch_size=batch_size, settings=settings) * settings.accumulation


def _rounds_since(round_number: int, *, included: int | None, first_planned: int | None) -> int:
    """Rounds since the device last had work; if it never had, since the first that was planned with it."""
    if included is not None:
        return max(0, round_number - 1 - included)
    return 0 if first_planned is None else round_number - first_planned
