"""How long a member takes on a device: download, steps of forward, backward, quantization and recomputation, upload.

    completion = download + steps * slowdown * (arithmetic + quantization_ratio * quantization) + upload

Arithmetic and quantization are seconds of the reference machine, linear in the manifest's numbers: multiply-adds of
forward and backward (what the backward recomputes is counted among the latter) and quantized elements of the stash.
The two factors belong to the device; `calibration.py` fits them to what it reports.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, MemberSpec, ParameterSpec
from quadloom_server.planning.member_memory import BYTES_PER_VALUE

REFERENCE_SECONDS_PER_OPERATION = 2.5e-11
"""Seconds of a multiply-add on the reference machine, for members whose step nobody measured.

`quadloom bench step --formats all --members "12,0 12,12" --rounds 5`, one thread of an x86-64: a step of ONNX
`d12-q00` takes 1.043 s for 42.1 G multiply-adds. Only its ratio to a device's true speed matters, which is calibrated.
"""
QUANTIZATION_OPERATIONS = 70
"""Multiply-adds that take as long as quantizing an element and reading it back, for step times that nobody measured.

`quadloom bench step --members "12,0 12,12" --recompute 0,0.03,0.3`, ONNX on x86-64: quantizing all 12 layers of the
MiniLM shape (batch 16, sequence 64) lengthens a step by 8, 7 and 4 %. Of its 42.1, 42.6 and 48.4 G multiply-adds, for
52.9, 39.4 and 24.5 M quantized elements, that is 64, 78 and 80 for each element.
These are median seconds of one run of 9 rounds on a busy machine; by the ratios to PyTorch within each round, it is
13, 6 and 1 %. So the figure is rough: it ranks members whose times are far apart, `--measure` those that are close.
"""


@dataclass(frozen=True)
class ReferenceCost:
    """What one member costs before any device is known.

    Attributes:
        arithmetic_s: multiply-adds of one step, seconds of the reference machine.
        quantization_s: quantizing the stash of one step and reading it back, seconds of the reference machine.
        own_bytes: files that this member alone needs, fetched once.
        shared_bytes: files that it shares with every member of its format (weights, tokenizer), fetched once.
        adapter_bytes: the global trainable tensors, fetched in every round.
        update_bytes: the change of the tensors that it trains, sent in every round.
        head_bytes: of each of the two, what is not LoRA and has the same size at every rank.
    """

    arithmetic_s: float
    quantization_s: float
    own_bytes: int = 0
    shared_bytes: int = 0
    adapter_bytes: int = 0
    update_bytes: int = 0
    head_bytes: int = 0


@dataclass(frozen=True)
class DeviceCost:
    """How a device differs from the reference machine.

    Attributes:
        slowdown: seconds that it takes for one second of the reference machine's arithmetic.
        quantization_ratio: how much dearer quantization is, relative to arithmetic, than on the reference machine.
        download_bytes_per_s, upload_bytes_per_s: speed of its link, None for no bound.
        rank_share: LoRA rank at which it trains, as a share of the family's.
    """

    slowdown: float = 1.0
    quantization_ratio: float = 1.0
    download_bytes_per_s: float | None = None
    upload_bytes_per_s: float | None = None
    rank_share: float = 1.0


@dataclass(frozen=True)
class CompletionTime:
    """Seconds from the assignment to the last byte of the update.

    Attributes:
        files_s: fetching what stays on the device: weights, tokenizer, graph.
        adapter_s: fetching the global trainable tensors.
    """

    files_s: float
    adapter_s: float
    train_s: float
    upload_s: float

    @property
    def download_s(self) -> float:
        """Files and adapter."""
        return self.files_s + self.adapter_s

    @property
    def total_s(self) -> float:
        """All, one after the other."""
        return self.files_s + self.recurring_s

    @property
    def recurring_s(self) -> float:
        """What every further round with the member takes."""
        return self.adapter_s + self.train_s + self.upload_s


def reference_costs(manifest: FamilyManifest) -> dict[MemberKey, ReferenceCost]:
    """The reference cost of every member of a family.

    Measured step times are used if every member has one; otherwise all are estimated, since a measured and an estimated
    time of two members say nothing about which is faster.
    """
    measured = all(each.measured_step_s for each in manifest.members)
    adapter_bytes = _bytes(manifest.parameters)
    head_bytes = _bytes([row for row in manifest.parameters if row.rank is None])
    tokenizer_bytes = sum(blob.size_bytes for blob in manifest.tokenizer)
    found = {}
    for member in manifest.members:
        arithmetic_s, quantization_s = step_seconds(member, measured=measured)
        found[member.key] = ReferenceCost(
            arithmetic_s=arithmetic_s,
            quantization_s=quantization_s,
            own_bytes=member.graph.size_bytes + sum(blob.size_bytes for blob in member.companions),
            shared_bytes=manifest.format_spec(member.key.format).weights.size_bytes + tokenizer_bytes,
            adapter_bytes=adapter_bytes,
            update_bytes=_bytes(manifest.trained_parameters(member.key.depth)),
            head_bytes=head_bytes,
        )
    return found


def step_seconds(member: MemberSpec, *, measured: bool) -> tuple[float, float]:
    """Seconds of arithmetic and of quantization in one step on the reference machine.

    Args:
        measured: take the member's measured step time, and from the operation counts only how it divides.
    """
    arithmetic = member.forward_operations + member.backward_operations
    quantization = QUANTIZATION_OPERATIONS * member.quantized_elements
    if not measured or not member.measured_step_s:
        return arithmetic * REFERENCE_SECONDS_PER_OPERATION, quantization * REFERENCE_SECONDS_PER_OPERATION
    share = quantization / max(1, arithmetic + quantization)
    return member.measured_step_s * (1 - share), member.measured_step_s * share


def step_s(device: DeviceCost, member: ReferenceCost) -> float:
    """Seconds of one training step of a member on a device."""
    return device.slowdown * (member.arithmetic_s + device.quantization_ratio * member.quantization_s)


def completion_time(
    device: DeviceCost,
    key: MemberKey,
    references: Mapping[MemberKey, ReferenceCost],
    *,
    steps: int,
    fetched: Collection[MemberKey],
) -> CompletionTime:
    """How long a device needs for one round with a member.

    Args:
        references: of every member of the family.
        steps: training steps of the round.
        fetched: members that the device has had before, whose files it need not fetch again.
    """
    member = references[key]
    adapter_bytes, update_bytes = (
        member.head_bytes + device.rank_share * (each - member.head_bytes)
        for each in (member.adapter_bytes, member.update_bytes)
    )
    return CompletionTime(
        files_s=transfer_s(_files_bytes(key, member, fetched=fetched), device.download_bytes_per_s),
        adapter_s=transfer_s(adapter_bytes, device.download_bytes_per_s),
        train_s=steps * step_s(device, member),
        upload_s=transfer_s(update_bytes, device.upload_bytes_per_s),
    )


def downloaded_bytes(key: MemberKey, member: ReferenceCost, *, fetched: Collection[MemberKey]) -> int:
    """Bytes that a device fetches for one round with a member: the adapter, and the files that it does not have yet."""
    return member.adapter_bytes + _files_bytes(key, member, fetched=fetched)


def _files_bytes(key: MemberKey, member: ReferenceCost, *, fetched: Collection[MemberKey]) -> int:
    own = member.own_bytes if key not in fetched else 0
    shared = member.shared_bytes if key.format not in {each.format for each in fetched} else 0
    return own + shared


def transfer_s(size_bytes: float, bytes_per_s: float | None) -> float:
    """Seconds that so many bytes take on a link; none where the link has no bound."""
    return 0.0 if bytes_per_s is None else size_bytes / bytes_per_s


def _bytes(rows: Sequence[ParameterSpec]) -> int:
    return BYTES_PER_VALUE * sum(math.prod(row.shape) for row in rows)
