"""INT8 storage of the frozen linear weights of a model's layers.

Only the weights are rounded, per output channel and symmetrically; products compute in float32 with what the integers
stand for. The model is rounded before it is traced, so PyTorch eager and every graph of the family have equal weights.
"""

from dataclasses import replace

import torch
from torch import nn

from quadloom_export.model import Int8Weight, LoraModel, canonical_name
from quadloom_export.semantic_ops import SMALLEST_SCALE
from quadloom_runtime.errors import QuadloomError

quadloom = torch.ops.quadloom

LEVELS = 127


def with_int8_weights(model: LoraModel) -> LoraModel:
    """The model whose frozen linear weights, those inside its layers, are rounded; embeddings and heads stay.

    Raises:
        QuadloomError: the layers have no such weights.
    """
    names = linear_weights(model)
    if not names:
        raise QuadloomError(
            f"the layers of {type(model.module.get_base_model()).__name__} have no frozen linear weights to round",
            remedy="export with --weights float32",
        )
    stored = {name: to_int8(model.frozen[name]) for name in names}
    return replace(
        model,
        frozen=model.frozen | {name: to_float32(weight) for name, weight in stored.items()},
        int8_weights={canonical_name(name): weight for name, weight in stored.items()},
    )


def linear_weights(model: LoraModel) -> tuple[str, ...]:
    """Names in ``model.frozen`` of the weights of linear modules inside the layers."""
    linear = [name for name, module in model.module.named_modules() if isinstance(module, nn.Linear)]
    inside = tuple(f"{layer}." for layer in model.layer_names)
    return tuple(f"{name}.weight" for name in linear if name.startswith(inside) and f"{name}.weight" in model.frozen)


def to_int8(weight: torch.Tensor) -> Int8Weight:
    """Round ``(outputs, inputs)`` to the nearest of 255 values per output, the largest magnitude being one of them."""
    scale = weight.abs().amax(1).clamp_min(SMALLEST_SCALE) / LEVELS
    return Int8Weight(quadloom.quantize(weight, scale, None), scale)


def to_float32(weight: Int8Weight) -> torch.Tensor:
    """What the integers stand for."""
    values: torch.Tensor = quadloom.dequantize(weight.values, weight.scale, None)
    return values
