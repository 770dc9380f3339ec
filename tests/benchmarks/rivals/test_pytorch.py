"""PyTorch eager + PEFT against our members."""

import pytest
import torch

from quadloom_benchmarks.rivals.pytorch import PyTorchRival


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
            rival._model(**rival._inputs)
        weights = {each.data_ptr() for each in rival._model.parameters()}
        return sum(size for place, size in found.items() if place not in weights)

    assert kept_bytes(checkpointing=True) < 0.5 * kept_bytes(checkpointing=False)
