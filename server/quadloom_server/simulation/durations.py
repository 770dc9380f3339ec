"""How long a device really takes for a round: the cost model with its true cost, and what nobody foresees."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, ParameterSpec
from quadloom_server.planning.cost_model import (
    CompletionTime,
    ReferenceCost,
    completion_time,
    downloaded_bytes,
)
from quadloom_server.planning.member_memory import BYTES_PER_VALUE
from quadloom_server.simulation.fleet import SimulatedDevice
from quadloom_server.simulation.fleet_file import TimeSection
from quadloom_server.simulation.local_training import LocalWork, moved_rows


@dataclass(frozen=True)
class Trip:
    """A device's round as it will have been: seconds of each part, and bytes each way."""

    time: CompletionTime
    downloaded_bytes: int
    uploaded_bytes: int


def true_trip(
    device: SimulatedDevice,
    work: LocalWork,
    reference: ReferenceCost,
    manifest: FamilyManifest,
    *,
    steps: int,
    fetched: Collection[MemberKey],
    time: TimeSection,
    random: np.random.Generator,
) -> Trip:
    """What the round costs this device.

    Args:
        reference: of the work's member at the family's rank, all layers sent.
        steps: training steps of the round.
        fetched: members whose files the device has.
        random: of this device and round.
    """
    own = replace(
        reference,
        adapter_bytes=_bytes(manifest.parameters, rank=work.rank),
        update_bytes=_bytes(moved_rows(manifest, work), rank=work.rank),
    )
    found = completion_time(device.true_cost, work.member, {work.member: own}, steps=steps, fetched=fetched)
    factor = float(np.exp(time.noise * random.standard_normal()))
    if random.random() < time.straggler_share:
        factor *= time.straggler_factor
    return Trip(
        replace(found, train_s=found.train_s * factor),
        downloaded_bytes(work.member, own, fetched=fetched),
        own.update_bytes,
    )


def _bytes(rows: Sequence[ParameterSpec], *, rank: int) -> int:
    """What the tensors take if those of LoRA have this rank instead of the table's."""
    return BYTES_PER_VALUE * sum(math.prod(row.shape) for row in rows_at_rank(rows, rank))
