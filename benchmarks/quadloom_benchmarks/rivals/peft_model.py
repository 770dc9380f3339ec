"""The family's model and adapter as PEFT loads them: what every rival trains."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from quadloom_benchmarks.rivals.rival import batch_arrays
from quadloom_export.pretrained import source_arguments
from quadloom_runtime.contract.manifest import FamilyManifest


def load_peft(folder: Path, manifest: FamilyManifest, model: str, *, attention: str | None = None) -> PeftModel:
    """The pretrained model with the family's adapter on it, dropout off.

    Args:
        model: hub id, folder or ``.gguf`` file.
        attention: transformers' name of an implementation, None for its own choice.
    """
    source = source_arguments(model) | ({} if attention is None else {"attn_implementation": attention})
    if manifest.task.num_labels is None:
        base = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, use_cache=False)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            **source, dtype=torch.float32, num_labels=manifest.task.num_labels
        )
    tuned = PeftModel.from_pretrained(base, str(folder / "adapter"), is_trainable=True).eval()
    assert isinstance(tuned, PeftModel)
    return tuned


def batch_tensors(manifest: FamilyManifest, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """`batch_arrays` for PyTorch."""
    return {name: torch.from_numpy(value) for name, value in batch_arrays(manifest, seed=seed).items()}
