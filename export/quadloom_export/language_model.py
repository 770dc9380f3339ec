"""A causal language model as a decoder, whose hidden states the graph makes, and a head that only the loss knows."""

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from quadloom_export.losses import VocabularyHead
from quadloom_export.model import LoraModel
from quadloom_runtime.errors import QuadloomError

LARGEST_LOGITS_BYTES = 4 << 20
"""Of the logits that are alive at once. Less memory means more passes over the weights of the head."""


class Decoder(nn.Module):
    """The model without its head."""

    def __init__(self, model: LoraModel) -> None:
        super().__init__()
        self.tuned = model.module

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Normalized hidden states ``(rows, length, hidden)``; padding stands on the right."""
        decoder = _pretrained(self.tuned).base_model
        mask = causal_mask(attention_mask)
        output = decoder(input_ids=input_ids, attention_mask=mask, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden


def causal_mask(attention_mask: Tensor) -> Tensor:
    """What to add to attention scores, ``(rows, 1, length, length)``: a token sees itself and real ones before it."""
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    earlier = position.unsqueeze(1) >= position.unsqueeze(0)
    seen = earlier & attention_mask.to(torch.bool)[:, None, None, :]
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def hidden_states(model: LoraModel, values: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Run the decoder with `values` by name in ``model.module``."""
    named = {f"tuned.{name}": value for name, value in values.items()}
    output: Tensor = torch.func.functional_call(Decoder(model), named, args=(), kwargs=inputs, tie_weights=False)
    return output


def vocabulary_head(model: LoraModel, values: dict[str, Tensor]) -> VocabularyHead:
    """The head's tensors among `values`; tied ones stand under the name of the embeddings.

    Raises:
        QuadloomError: the head is no single linear module.
    """
    base = _pretrained(model.module)
    head = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise QuadloomError(
            f"the head of {type(base).__name__} is {type(head).__name__}, not one linear module",
            remedy="use a model whose get_output_embeddings() is nn.Linear, as those of Llama, Qwen2 or GPT-NeoX",
        )
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.module.named_parameters()}
    return VocabularyHead(values[names[head.weight]], None if head.bias is None else values[names[head.bias]])


def _pretrained(tuned: PeftModel) -> PreTrainedModel:
    base = tuned.get_base_model()
    assert isinstance(base, PreTrainedModel)
    return base


def positions_at_once(*, batch_size: int, vocabulary: int) -> int:
    """Positions whose logits, for a whole batch, stay within `LARGEST_LOGITS_BYTES`."""
    return max(1, LARGEST_LOGITS_BYTES // (batch_size * vocabulary * torch.float32.itemsize))
