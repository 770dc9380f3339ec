"""PyTorch eager + PEFT, plain or with transformers' gradient checkpointing."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer

from quadloom_benchmarks.rivals.peft_model import batch_tensors, load_peft
from quadloom_export.model import adapter_key
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.family_folder import load_manifest


class PyTorchRival:
    """A PEFT model, attention as transformers chooses it.

    Args:
        checkpointing: keep only the inputs of layers, and run each layer again in the backward.
        accumulation: batches of a step, their gradients added up.
    """

    def __init__(self, folder: Path, model: str, *, checkpointing: bool, accumulation: int = 1) -> None:
        torch.set_num_threads(1)
        manifest = load_manifest(folder)
        self._model = load_peft(folder, manifest, model)
        self._batches = [batch_tensors(manifest, seed=index) for index in range(accumulation)]
        if checkpointing:
            _turn_on_checkpointing(self._model)

    def step(self) -> None:
        """Forward and backward."""
        self._model.zero_grad()
        for batch in self._batches:
            (self._model(**batch).loss / len(self._batches)).backward()

    def gradients(self) -> dict[str, FloatArray]:
        """Gradients of the last step by PEFT's adapter keys."""
        found = {adapter_key(name): value.grad for name, value in self._model.named_parameters()}
        return {name: gradient.numpy() for name, gradient in found.items() if gradient is not None}


def _turn_on_checkpointing(model: PeftModel) -> None:
    base: Any = model.get_base_model()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # it asks for that; what is inside stays in evaluation mode, without dropout
