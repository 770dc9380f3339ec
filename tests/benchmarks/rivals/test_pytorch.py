"""PyTorch eager + PEFT against our members."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from quadloom_benchmarks.families import random_batch
from quadloom_benchmarks.rivals.pytorch import PyTorchRival
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.trainer import accumulate


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_our_member(family, agrees_with_ours, checkpointing):
    agrees_with_ours(PyTorchRival(family.folder, family.model, checkpointing=checkpointing))


def test_checkpointing_keeps_less_for_the_backward(make_family):
    family = make_family("sequence-classification")

    def kept_bytes(*, checkpointing: bool) -> int:
        rival = PyTorchRival(family.folder, family.model, checkpointing=checkpointing)
        found: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            rival._model(**rival._batches[0])
        weights = {each.data_ptr() for each in rival._model.parameters()}
        return sum(size for place, size in found.items() if place not in weights)

    assert kept_bytes(checkpointing=True) < 0.5 * kept_bytes(checkpointing=False)


def test_accumulated_batches_have_the_gradients_of_our_accumulating_trainer(family):
    key = MemberKey(depth=2, quantized_layers=0, recompute_percent=3)
    engine = open_training_engine(family.folder, family.manifest, key, threads=1)
    parameters = load_file(family.folder / "adapter/adapter_model.safetensors")
    group = [random_batch(family.manifest, seed=index) for index in range(3)]
    ours = accumulate(engine, parameters, group).gradients
    rival = PyTorchRival(family.folder, family.model, checkpointing=False, accumulation=3)
    rival.step()
    rival.step()
    theirs = rival.gradients()
    assert set(theirs) == set(ours)
    for name, gradient in ours.items():
        np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())
