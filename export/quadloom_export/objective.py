"""What a task asks of a model: which part of it runs, how its output is judged, and where the backward begins."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quadloom_export.language_model import hidden_states, positions_at_once, vocabulary_head
from quadloom_export.losses import Worth, judge_classes, judge_next_tokens
from quadloom_export.model import LoraModel


@dataclass(frozen=True)
class Judged:
    """Worth of one batch, and where its backward begins: at `root` with `root_gradient`, None standing for 1."""

    worth: Worth
    root: Tensor
    root_gradient: Tensor | None


def gives_logits(model: LoraModel) -> bool:
    """Whether logits are an output of the evaluation: of a language model they would be its largest tensor."""
    return model.task == "sequence-classification"


def example_labels(model: LoraModel, input_ids: Tensor) -> Tensor:
    """Labels of the right shape: one per row of a classifier, one per token of a language model."""
    return torch.zeros_like(input_ids if model.task == "causal-lm" else input_ids[:, 0])


def run_model(model: LoraModel, values: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Logits of a classifier; hidden states of a language model, whose head belongs to the loss."""
    if model.task == "causal-lm":
        return hidden_states(model, values, inputs)
    output = torch.func.functional_call(model.module, values, args=(), kwargs=inputs, tie_weights=False)
    logits: Tensor = output.logits
    return logits


def judge(
    model: LoraModel, output: Tensor, values: dict[str, Tensor], labels: Tensor, *, batch_size: int, training: bool
) -> Judged:
    """Judge what `run_model` gave for a graph of `batch_size` rows."""
    if model.task == "sequence-classification":
        worth = judge_classes(output, labels)
        return Judged(worth, root=worth.loss, root_gradient=None)
    head = vocabulary_head(model, values)
    at_once = positions_at_once(batch_size=batch_size, vocabulary=head.weight.shape[0])
    worth, gradient = judge_next_tokens(output, head, labels, positions_at_once=at_once, with_gradient=training)
    return Judged(worth, root=output, root_gradient=gradient)
