"""Trace a model with LoRA into the joint graph of its full depth.

`make_fx` records the forward and, through `torch.autograd.grad`, the backward as ATen operators. It runs twice with
different batch sizes; `passes.batch_free` compares the two recordings and removes the batch size from every argument.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from quadloom_export import semantic_ops
from quadloom_export.graph import GRADIENT_PREFIX, SHAPE_MODES, JointGraph, propagate, remove_dead
from quadloom_export.model import LoraModel, canonical_name
from quadloom_export.passes.batch_free import TRACED_BATCH_SIZES, make_batch_free
from quadloom_runtime.errors import QuadloomError

aten = torch.ops.aten
IGNORED_LABEL = -100


@dataclass
class _Marks:
    """Where the recording stood when something happened: number of nodes recorded so far.

    `names` are all of them in order: `make_fx` drops dead nodes at the end, so positions must be looked up by name.
    """

    layer_start: list[int] = field(default_factory=list)
    layer_end: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    backward_start: int = 0
    layer_backward_start: dict[int, int] = field(default_factory=dict)


def trace_training(model: LoraModel, *, batch_size: int, sequence_length: int) -> JointGraph:
    """The joint forward+backward graph over all layers. `passes.trim` cuts shallower depths out of it."""
    return _trace(model, batch_size=batch_size, sequence_length=sequence_length, training=True)


def trace_evaluation(model: LoraModel, *, batch_size: int, sequence_length: int) -> JointGraph:
    """The forward graph with logits as an output."""
    return _trace(model, batch_size=batch_size, sequence_length=sequence_length, training=False)


def example_batch(rows: int, sequence_length: int, *, token_types: bool) -> dict[str, Tensor]:
    """A batch of the right shapes and dtypes."""
    ids = torch.ones(rows, sequence_length, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    if not token_types:
        del batch["token_type_ids"]
    return batch | {"labels": torch.zeros(rows, dtype=torch.long)}


def uses_token_types(model: LoraModel) -> bool:
    """Whether the model distinguishes segments."""
    import inspect

    accepted = inspect.signature(model.module.get_base_model().forward).parameters
    return "token_type_ids" in accepted and getattr(model.module.config, "type_vocab_size", 0) > 1


def _trace(model: LoraModel, *, batch_size: int, sequence_length: int, training: bool) -> JointGraph:
    recordings = [_record(model, rows, sequence_length, training=training) for rows in TRACED_BATCH_SIZES]
    graph, keys = make_batch_free(recordings[0][0], recordings[1][0]), recordings[0][1]
    for node in graph.nodes:
        if node.name in keys:
            node.meta |= dict(zip(("role", "key"), keys[node.name], strict=True))
    outputs = ["loss", "correct_count", "example_count"]
    outputs += [GRADIENT_PREFIX + row.name for row in model.parameters] if training else ["logits"]
    frozen = {canonical_name(name): value for name, value in model.frozen.items()}
    frozen |= {node.meta["key"]: node.meta["constant"] for node in graph.nodes if "constant" in node.meta}
    joint = JointGraph(
        graph=graph,
        outputs=tuple(outputs),
        parameters=model.parameters,
        frozen=frozen,
        layers=len(model.layer_names),
        depth=len(model.layer_names) if training else 0,
        batch_size=batch_size,
    )
    _attach_shapes(joint, model, sequence_length)
    return joint


def _record(
    model: LoraModel, rows: int, sequence_length: int, *, training: bool
) -> tuple[fx.Graph, dict[str, tuple[str, str]]]:
    """Record one batch size; returns the tagged graph and (role, key) per placeholder name."""
    batch = example_batch(rows, sequence_length, token_types=uses_token_types(model))
    marks = _Marks()

    def joint(parameters: list[Tensor], batch_values: list[Tensor], frozen: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [value.detach().requires_grad_() for value in parameters]
        values = {model.module_names[row.name]: leaf for row, leaf in zip(model.parameters, leaves, strict=True)}
        values |= dict(zip(model.frozen, frozen, strict=True))
        named = dict(zip(batch, batch_values, strict=True))
        labels = named.pop("labels")
        with _marking(model, marks):
            output = torch.func.functional_call(model.module, values, args=(), kwargs=named, tie_weights=False)
        logits = output.logits
        loss, correct, count = _loss_and_counts(logits, labels)
        if not training:
            marks.names = _recorded_names()
            return loss, correct, count, logits
        marks.backward_start = _recorded()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        marks.names = _recorded_names()
        for row, gradient in zip(model.parameters, gradients, strict=True):
            if gradient is None:
                raise QuadloomError(
                    f"the trainable tensor {row.name} does not influence the loss",
                    remedy="leave its module out of --target-modules",
                )
        return loss.detach(), correct, count, *gradients

    inputs = (list(model.trainable.values()), list(batch.values()), list(model.frozen.values()))
    # The default decompositions save and compute more than a frozen layer's backward needs.
    table = core_aten_decompositions()
    for operator, decomposition in _DECOMPOSITIONS.items():
        table[operator] = decomposition
    # torch's own table type is a mapping in all but name.
    recorded = make_fx(joint, tracing_mode="fake", decomposition_table=table)(*inputs)  # type: ignore[arg-type]
    _check_order(marks, model)
    graph = recorded.graph
    _tag(graph, marks, layers=len(model.layer_names))
    roles = [("parameter", row.name) for row in model.parameters] + [("batch", name) for name in batch]
    roles += [("frozen", canonical_name(name)) for name in model.frozen]
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    keys = {node.name: role for node, role in zip(placeholders, roles, strict=True)}
    for node in graph.nodes:
        if node.op == "get_attr":
            node.meta["constant"] = getattr(recorded, str(node.target))
    return graph, keys


def _loss_and_counts(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross entropy over the rows whose label is not -100, right predictions and number of those rows.

    Written with a one-hot mask instead of `cross_entropy`: no gather, no scatter, and a padding row is a row of zeros.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    target = (labels.unsqueeze(1) == classes).to(torch.float32)
    counted = labels != IGNORED_LABEL
    count = counted.to(torch.int64).sum()
    rows = counted.to(torch.float32).sum().clamp(min=1.0)
    loss = -(torch.log_softmax(logits, dim=1) * target).sum() / rows
    correct = (logits.detach().argmax(dim=1) == labels).to(torch.int64).sum()
    return loss, correct, count


def _recorded_names() -> list[str]:
    mode = get_proxy_mode()
    assert mode is not None
    return [node.name for node in mode.tracer.graph.nodes]


def _recorded() -> int:
    return len(_recorded_names())


class _marking:  # noqa: N801 - reads as a statement
    """Hooks that note where each layer's forward and backward begin."""

    def __init__(self, model: LoraModel, marks: _Marks) -> None:
        self._model, self._marks = model, marks
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for index, layer in enumerate(self._model.layers):
            self._handles.append(layer.register_forward_pre_hook(self._start))
            self._handles.append(layer.register_forward_hook(lambda _m, _i, out, index=index: self._end(index, out)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: object) -> None:
        self._marks.layer_start.append(_recorded())

    def _end(self, index: int, output: Any) -> None:
        self._marks.layer_end.append(_recorded())
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _gradient: self._backward(index))

    def _backward(self, index: int) -> None:
        self._marks.layer_backward_start[index] = _recorded()


def _check_order(marks: _Marks, model: LoraModel) -> None:
    count = len(model.layer_names)
    if len(marks.layer_start) != count or marks.layer_start != sorted(marks.layer_start):
        raise QuadloomError(
            f"the model ran {len(marks.layer_start)} layers where its module list holds {count}",
            remedy="use a model that runs each layer of its list once, in order (ALBERT shares its layers)",
        )


def _tag(graph: fx.Graph, marks: _Marks, *, layers: int) -> None:
    """Set phase and layer of every node from its position in the recording."""
    positions = {name: position for position, name in enumerate(marks.names)}
    for node in graph.nodes:
        position = positions.get(node.name, len(positions))
        backward = marks.backward_start > 0 and position >= marks.backward_start
        layer: int | str = "head"
        if backward:
            begun = [i for i, start in marks.layer_backward_start.items() if position >= start]
            layer = min(begun) if begun else "head"
        elif position < marks.layer_start[0]:
            layer = "embeddings"
        else:
            started = [i for i in range(layers) if position >= marks.layer_start[i]]
            layer = started[-1] if position < marks.layer_end[started[-1]] or started[-1] < layers - 1 else "head"
        node.meta["phase"], node.meta["layer"] = ("backward" if backward else "forward"), layer


def _attach_shapes(joint: JointGraph, model: LoraModel, sequence_length: int) -> None:
    """Compute ``val`` and ``twin`` of every node at the family's batch size."""
    for key, rows in (("val", joint.batch_size), ("twin", joint.batch_size + 1)):
        batch = example_batch(rows, sequence_length, token_types=uses_token_types(model))
        sources = {"parameter": model.trainable, "batch": batch, "frozen": joint.frozen}
        for node in joint.inputs:
            value = sources[node.meta["role"]][node.meta["key"]]
            node.meta[key] = SHAPE_MODES[key].from_tensor(value.detach())
    for node in joint.nodes:
        propagate(node)
    remove_dead(joint.graph)


def _layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    normalized_shape: list[int],
    mean: Tensor,
    inverse_deviation: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,  # noqa: ARG001 - part of the operator's signature
    output_mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``dx = (g w - mean(g w) - x^ mean(g w x^)) / sigma``: two full-size products fewer than the stock one."""
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    outer = list(range(x.dim() - len(normalized_shape)))
    normalized = (x - mean) * inverse_deviation
    weighted = gradient if weight is None else gradient * weight
    correlation = (weighted * normalized).mean(axes, keepdim=True)
    dx = (weighted - weighted.mean(axes, keepdim=True) - normalized * correlation) * inverse_deviation
    dw = (gradient * normalized).sum(outer) if output_mask[1] and outer else None
    db = gradient.sum(outer) if output_mask[2] and outer else None
    return dx if output_mask[0] else None, dw, db


def _gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    stock = core_aten_decompositions()[aten.gelu_backward.default]
    result: Tensor = (
        gradient * semantic_ops.gelu_derivative(x)
        if approximate == "none"
        else stock(gradient, x, approximate=approximate)
    )
    return result


_DECOMPOSITIONS: dict[OpOverload, Callable[..., Any]] = {
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten.gelu_backward.default: _gelu_backward,
}
