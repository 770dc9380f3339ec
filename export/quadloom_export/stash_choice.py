"""Choose how each stashed tensor is quantized: the fewest bytes whose gradient error keeps a budget.

Rounding errors of different tensors are nearly independent, so the squares of the gradient errors that they cause add
up. How sensitive the gradients are to each tensor is measured on a few examples, one tensor at a time; the error of
another format follows from how much more or less it distorts the tensor. From the most precise formats on, tensors then
step down, those first that save most bytes for their error: the greedy way through a multiple-choice knapsack
(Sinha and Zoltners, Operations Research 27, 1979). How far to go is not predicted but run, with all examples.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from quadloom_export.calibration import Calibration, gradient_error
from quadloom_export.graph import JointGraph
from quadloom_export.passes.quantize import StashFormat, StashFormats, fits, quantizable, round_trip, stored_bytes
from quadloom_export.passes.row_chunks import split_rows
from quadloom_export.passes.stash import Place
from quadloom_export.pipeline import at_depth
from quadloom_export.replay import Replay
from quadloom_export.settings import FamilySettings
from quadloom_runtime.contract.manifest import MemberKey, ParameterSpec, StashKind, StashSpec
from quadloom_runtime.errors import QuadloomError

MEASURED_ROWS = 4
"""Examples on which sensitivities are measured: they rank as on the whole batch, for less time."""


@dataclass(frozen=True)
class Option:
    """One format of the tensors of one place.

    Attributes:
        size_bytes: in a step at the family's batch size.
        error: square of the relative gradient error that it causes, as predicted.
    """

    stash_format: StashFormat
    size_bytes: int
    error: float


@dataclass(frozen=True)
class Step:
    """A place goes from one option to a smaller one."""

    place: Place
    to: Option
    cost: float


def stash_formats(spec: StashSpec) -> StashFormats:
    """What a manifest says about the stash, as the passes need it."""
    rest = StashFormat(bits=8 if spec.bits == "auto" else spec.bits, group_size=spec.group_size)
    chosen = {
        Place(each.kind, layer): StashFormat(each.bits, each.group_size) for each in spec.kinds for layer in each.layers
    }
    return StashFormats(rest, chosen)


def chosen_stash(
    full: JointGraph, calibration: Calibration, settings: FamilySettings, keys: Iterable[MemberKey]
) -> StashSpec:
    """Choose for every layer that a member of the family quantizes, at the gradients of the deepest member.

    What only members of a larger recompute budget stash is not measured: it is INT8.

    Raises:
        QuadloomError: not even INT8 keeps the budget.
    """
    spec = settings.stash_spec
    depth, percent, quantized_layers = judged_at(keys)
    graph = split_rows(at_depth(full, depth, recompute=percent / 100), chunks=settings.row_chunks)
    assert spec.error_budget is not None
    chosen = choose_options(
        graph, calibration, quantized_layers=quantized_layers, budget=spec.error_budget, group_size=spec.group_size
    )
    return spec.model_copy(update={"kinds": _summary(chosen)})


def judged_at(keys: Iterable[MemberKey]) -> tuple[int, int, int]:
    """The largest depth, its least recompute percent, and how many layers from its lowest up cover all quantized ones.

    The least recomputation leaves the most tensors to choose for.
    """
    each = list(keys)
    depth = max(key.depth for key in each)
    percent = min(key.recompute_percent for key in each if key.depth == depth)
    return (
        depth,
        percent,
        max((depth - key.depth + key.quantized_layers for key in each if key.quantized_layers), default=0),
    )


def choose_options(
    joint: JointGraph, calibration: Calibration, *, quantized_layers: int, budget: float, group_size: int
) -> dict[Place, Option]:
    """The option of each place in `quantized_layers` layers of an unquantized graph.

    Raises:
        QuadloomError: not even INT8 keeps the budget.
    """
    nodes = _nodes_by_place(joint, quantized_layers)
    options = measured_options(joint, calibration, nodes, group_size)
    replay = Replay(joint, calibration)
    first = {place: min(each, key=lambda option: (option.error, option.size_bytes)) for place, each in options.items()}
    steps = [step for place, each in options.items() for step in descent(place, first[place], each)]
    steps.sort(key=lambda step: (step.cost, step.place))

    def after(count: int) -> dict[Place, Option]:
        return first | {step.place: step.to for step in steps[:count]}

    def error(choice: Mapping[Place, Option]) -> float:
        changes = {
            node: round_trip(node, replay.saved[node], choice[place].stash_format)
            for place, members in nodes.items()
            for node in members
        }
        return _relative_l2(joint.parameters, replay, changes)

    least = error(first)
    if least > budget:
        raise QuadloomError(
            f"INT8 everywhere has a gradient error of {100 * least:.2g} %, over the budget of {100 * budget:.2g} %",
            remedy=f"use --error-budget {1.2 * least:.2g} or more, or a smaller --group-size",
        )
    kept, exceeded = 0, len(steps) + 1
    while exceeded - kept > 1:
        middle = (kept + exceeded) // 2
        kept, exceeded = (middle, exceeded) if error(after(middle)) <= budget else (kept, middle)
    return after(kept)


def measured_options(
    joint: JointGraph, calibration: Calibration, nodes: Mapping[Place, list[fx.Node]], group_size: int
) -> dict[Place, list[Option]]:
    """What each place can be stored as."""
    replay = Replay(joint, calibration, rows=MEASURED_ROWS)
    formats = [StashFormat(bits, size) for bits in (4, 8) for size in (2 * group_size, group_size, group_size // 2)]
    found = {}
    for place, members in nodes.items():
        possible = [each for each in formats if all(fits(node, each) for node in members)]
        coarsest = _changed(replay, members, possible[0])
        error = _relative_l2(joint.parameters, replay, coarsest) ** 2
        per_distortion = error / max(_distortion(replay, coarsest), torch.finfo(torch.float64).tiny)
        found[place] = [
            Option(
                each,
                sum(stored_bytes(node, each) for node in members),
                per_distortion * _distortion(replay, _changed(replay, members, each)),
            )
            for each in possible
        ]
    return found


def descent(place: Place, start: Option, options: Iterable[Option]) -> list[Step]:
    """From `start` to ever fewer bytes along the lower convex hull: each step costs more error per byte."""
    steps: list[Step] = []
    here, rest = start, [each for each in options if each.size_bytes < start.size_bytes]
    while rest:
        cost, _, best = min(
            ((each.error - here.error) / (here.size_bytes - each.size_bytes), each.size_bytes, index)
            for index, each in enumerate(rest)
        )
        here = rest[best]
        steps.append(Step(place, here, cost))
        rest = [each for each in rest if each.size_bytes < here.size_bytes]
    return steps


def _nodes_by_place(joint: JointGraph, quantized_layers: int) -> dict[Place, list[fx.Node]]:
    found: dict[Place, list[fx.Node]] = defaultdict(list)
    for saved in quantizable(joint, quantized_layers):
        if fits(saved.node, StashFormat()):
            found[saved.place].append(saved.node)
    return dict(found)


def _changed(replay: Replay, nodes: list[fx.Node], stash_format: StashFormat) -> dict[fx.Node, Tensor]:
    return {node: round_trip(node, replay.saved[node], stash_format) for node in nodes}


def _distortion(replay: Replay, changes: Mapping[fx.Node, Tensor]) -> float:
    return sum(float(((value - replay.saved[node]).double() ** 2).sum()) for node, value in changes.items())


def _relative_l2(table: tuple[ParameterSpec, ...], replay: Replay, changes: Mapping[fx.Node, Tensor]) -> float:
    trained = tuple(row for row in table if row.name in replay.gradients)
    return gradient_error(replay.gradients, replay.gradients_with(changes), trained).relative_l2


def _summary(chosen: Mapping[Place, Option]) -> tuple[StashKind, ...]:
    """The options as the manifest states them: layers of one kind and format together."""
    places: dict[tuple[str, StashFormat], list[Place]] = defaultdict(list)
    for place, option in sorted(chosen.items()):
        places[place.kind, option.stash_format].append(place)
    return tuple(
        StashKind(
            kind=kind,
            layers=tuple(place.layer for place in members),
            bits=4 if stash_format.bits == 4 else 8,
            group_size=stash_format.group_size,
            relative_l2=sum(chosen[place].error for place in members) ** 0.5,
        )
        for (kind, stash_format), members in places.items()
    )
