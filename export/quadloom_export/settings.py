"""What to export, and the refusal of what makes no sense."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from quadloom_runtime.contract.manifest import (
    ExecutorchBackend,
    Format,
    MemberKey,
    StashSpec,
    TaskKind,
    TaskSpec,
    WeightFormat,
)
from quadloom_runtime.errors import QuadloomError

USUAL_ERROR_BUDGET = 0.05


@dataclass(frozen=True)
class FamilySettings:
    """What to export.

    Attributes:
        num_labels: classes of a sequence classification.
        depths: LoRA depths, None for all of them.
        quantized: quantized-layer counts, used where they do not exceed the depth; None for all.
        formats: what the members are made for; each gets every member.
        executorch_backend: who computes what ExecuTorch's portable kernels are slow at.
        executorch_single_file: also write one program that holds every member and the weights.
        target_modules: last name components of linear modules, or ``("all-linear",)``.
        bits: per stash element, or ``auto``: as few as `error_budget` allows, tensor by tensor.
        group_size: stash elements that share a scale; the choice of ``auto`` is around it.
        error_budget: largest relative error of the LoRA gradients, of ``auto`` alone; None for the usual one.
        weights: how the frozen linear weights of the layers are stored.
        measure: run each member in a process of its own, for its real peak and step time.
        recompute: budgets, each with members of its own: multiply-adds of the forward that the backward may repeat to
            save memory, as a share of all, in whole percents; a few hundredths buy the attention probabilities, the
            cheapest to repeat.
        row_chunks: most shares in which the rows of a feed-forward are processed, one after the other; layers for
            which memory has room have fewer.
    """

    task: TaskKind = "sequence-classification"
    num_labels: int = 2
    depths: tuple[int, ...] | None = None
    quantized: tuple[int, ...] | None = None
    formats: tuple[Format, ...] = ("onnx",)
    executorch_backend: ExecutorchBackend = "xnnpack"
    executorch_single_file: bool = False
    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] = ("query", "value")
    batch_size: int = 16
    sequence_length: int = 64
    bits: int | Literal["auto"] = 8
    group_size: int = 64
    error_budget: float | None = None
    recompute: tuple[float, ...] = (0.03,)
    row_chunks: int = 4
    weights: WeightFormat = "float32"
    measure: bool = False
    seed: int = 0

    @property
    def task_spec(self) -> TaskSpec:
        """The task as the manifest states it."""
        return TaskSpec(kind=self.task, num_labels=self.num_labels if self.task == "sequence-classification" else None)

    @property
    def stash_spec(self) -> StashSpec:
        """The stash as the manifest states it before anything is chosen."""
        usual = USUAL_ERROR_BUDGET if self.bits == "auto" else None
        return StashSpec(bits=self.bits, group_size=self.group_size, error_budget=self.error_budget or usual)  # type: ignore[arg-type]  # checked before

    @property
    def recompute_percents(self) -> tuple[int, ...]:
        """The recompute budgets as keys state them, smallest first."""
        return tuple(sorted(round(100 * share) for share in self.recompute))

    @property
    def least_depth(self) -> int:
        """The head of a classifier trains even alone; that of a language model never does."""
        return 0 if self.task == "sequence-classification" else 1


DEFAULTS = FamilySettings()


def check_settings(settings: FamilySettings) -> None:
    """Refuse numbers that make no sense before anything is loaded."""
    for name in ("rank", "batch_size", "num_labels", "group_size", "row_chunks"):
        least = 2 if name == "num_labels" else 1
        if getattr(settings, name) < least:
            raise QuadloomError(
                f"{name.replace('_', ' ')} {getattr(settings, name)} is too small", remedy=f"use {least} or more"
            )
    if not settings.formats or not set(settings.formats) <= set(get_args(Format)):
        raise QuadloomError(
            f"formats {list(settings.formats)} cannot be exported", remedy=f"choose from: {', '.join(get_args(Format))}"
        )
    if settings.executorch_single_file and "executorch" not in settings.formats:
        raise QuadloomError(
            f"a single ExecuTorch file is asked for, but the formats are {', '.join(settings.formats)}",
            remedy="add executorch to the formats",
        )
    if settings.bits not in (4, 8, "auto"):
        raise QuadloomError(f"{settings.bits} bits per stash element are not supported", remedy="use 8, 4 or auto")
    if settings.error_budget is not None and settings.bits != "auto":
        raise QuadloomError("an error budget is for bits chosen by it", remedy="add --bits auto, or leave it out")
    if settings.error_budget is not None and not 0 < settings.error_budget < 1:
        raise QuadloomError(f"error budget {settings.error_budget} is not a share", remedy="use e.g. 0.05 for 5 %")
    if settings.weights not in get_args(WeightFormat):
        raise QuadloomError(
            f"weights cannot be stored as {settings.weights!r}",
            remedy=f"choose from: {', '.join(get_args(WeightFormat))}",
        )
    _check_recompute(settings.recompute)
    if settings.alpha <= 0:
        raise QuadloomError(f"alpha {settings.alpha} is not positive", remedy="use a positive alpha, e.g. 2 * rank")


def _check_recompute(shares: tuple[float, ...]) -> None:
    if not shares:
        raise QuadloomError(
            "no recompute share is given", remedy="give one or several, e.g. 0.03 or 0.03,0.3; 0 for none"
        )
    for share in shares:
        if not 0 <= share <= 1:
            raise QuadloomError(f"recompute share {share:g} is outside 0..1", remedy="use e.g. 0.03 for 3 %")
        if not math.isclose(100 * share, round(100 * share), abs_tol=1e-9):
            raise QuadloomError(
                f"recompute share {share:g} is not a whole percent",
                remedy=f"use {round(100 * share) / 100:g}, as members are named by whole percents",
            )
    percents = [round(100 * share) for share in shares]
    for place, percent in enumerate(percents):
        if percent in percents[:place]:
            raise QuadloomError(f"recompute share {percent / 100:g} is given twice", remedy="name every share once")


def member_keys(settings: FamilySettings, *, layers: int) -> tuple[MemberKey, ...]:
    """Every (depth, recompute budget, quantized layers) of the family in every format, in this order, smallest first.

    Where only the head trains, nothing can be recomputed: one member stands for all budgets.

    Raises:
        QuadloomError: a depth above the number of layers, a quantized-layer count above every depth, or no member.
    """
    least = settings.least_depth
    depths = settings.depths if settings.depths is not None else tuple(range(least, layers + 1))
    for depth in depths:
        if not least <= depth <= layers:
            raise QuadloomError(
                f"depth {depth} is outside {least}..{layers}: the model has {layers} layers, and the task is "
                f"{settings.task}",
                remedy=f"choose depths from {least}-{layers}",
            )
    if settings.quantized is not None and (high := max(settings.quantized, default=0)) > max(depths, default=0):
        raise QuadloomError(
            f"{high} quantized layers exceed the largest depth {max(depths, default=0)}",
            remedy="quantize at most as many layers as are trained (q <= d)",
        )
    keys = tuple(
        MemberKey(depth=depth, quantized_layers=count, recompute_percent=percent, format=name)
        for depth in sorted(set(depths))
        for percent in (settings.recompute_percents if depth else (0,))
        for count in range(depth + 1)
        if settings.quantized is None or count in settings.quantized
        for name in dict.fromkeys(settings.formats)
    )
    if not keys:
        raise QuadloomError(
            f"depths {list(depths)} and quantized-layer counts {settings.quantized} select no member",
            remedy="name at least one depth, and a quantized-layer count of 0 or more that does not exceed it",
        )
    return keys


def _positions(model: nn.Module) -> int | None:
    """Tokens that the model can tell apart; a position table with a padding row counts from behind that row."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def check_sequence_length(model: nn.Module, sequence_length: int) -> None:
    """Refuse more positions than the model knows.

    Raises:
        QuadloomError: too short or too long.
    """
    positions = _positions(model)
    if sequence_length < 2 or (positions is not None and sequence_length > positions):
        raise QuadloomError(
            f"sequence length {sequence_length} is outside 2..{positions}, the positions that the model knows",
            remedy="choose a shorter --sequence-length",
        )
