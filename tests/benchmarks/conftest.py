"""Tiny exported families whose adapters have moved: a fresh adapter's B is zero, which hides the gradient of A."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.export.conftest import word_piece_tokenizer
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from quadloom_benchmarks.families import BenchmarkFamily
from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.family_folder import blob_reference, save_manifest

ADAPTER = "adapter/adapter_model.safetensors"
SIZES = {
    "vocab_size": 1000,  # the random batch draws from as many
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
MODELS = {
    "sequence-classification": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "causal-lm": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **SIZES)),
}


@pytest.fixture(scope="session")
def make_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BenchmarkFamily]:
    """``make_family("causal-lm")``, each made once: depth 2, q 0 and 2, for ONNX, LoRA on every linear module."""

    @cache
    def make(task: str) -> BenchmarkFamily:
        root = tmp_path_factory.mktemp(task)
        torch.manual_seed(0)
        MODELS[task]().save_pretrained(root / "model")
        word_piece_tokenizer().save_pretrained(root / "model")
        settings = FamilySettings(
            task=task,  # type: ignore[arg-type]
            depths=(2,),
            quantized=(0, 2),
            target_modules=("all-linear",),
            batch_size=4,
            sequence_length=16,
        )
        _move_adapter(root / "family", export_family(str(root / "model"), root / "family", settings))
        return BenchmarkFamily.load(root / "family")

    return make


@pytest.fixture(params=list(MODELS))
def family(request: pytest.FixtureRequest, make_family: Callable[[str], BenchmarkFamily]) -> BenchmarkFamily:
    """One of every task."""
    return make_family(request.param)


def _move_adapter(folder: Path, manifest: FamilyManifest) -> None:
    path = folder / ADAPTER
    generator = np.random.default_rng(0)
    moved = {
        name: (value + 0.05 * generator.standard_normal(value.shape)).astype(np.float32)
        for name, value in load_file(path).items()
    }
    save_file(moved, path)
    # The manifest holds every file's hash, and who opens the family may check it.
    adapter = tuple(blob_reference(folder, each.path, media_type=each.media_type) for each in manifest.adapter)
    save_manifest(folder, manifest.model_copy(update={"adapter": adapter}))
