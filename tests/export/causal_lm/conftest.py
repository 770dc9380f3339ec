"""Tiny causal language models, traced once per session, each with an independent PyTorch + PEFT reference beside it."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tests.export.conftest import VOCABULARY, arrays, as_batch, round_weights, word_piece_tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, Qwen2Config

from quadloom_export.graph import JointGraph
from quadloom_export.lowering.onnx import input_specs, lower_to_onnx, output_specs, weight_tensors
from quadloom_export.lowering.weights import WeightEntry, write_weights
from quadloom_export.model import LoraModel, add_lora
from quadloom_export.passes.quantize import StashFormat, StashFormats
from quadloom_export.passes.weight_only import store_int8_weights
from quadloom_export.pipeline import at_depth, at_quantization, made_lean
from quadloom_export.trace import trace_evaluation, trace_training
from quadloom_export.weight_only import with_int8_weights
from quadloom_runtime.engines.engine import EvaluationResult, StepResult
from quadloom_runtime.engines.onnx import OnnxEvaluationEngine, OnnxTrainingEngine

LAYERS = 3
BATCH_SIZE = 8
SEQUENCE_LENGTH = 16
RANK = 4
ALPHA = 8.0
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, what LoRA adapts in this project's words, and the same in PEFT's."""

    config: object
    targets: tuple[str, ...]
    leaves: str


LLAMA = LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **SIZES)
ARCHITECTURES = {
    "llama": Architecture(LLAMA, ("query", "value"), "q_proj|v_proj"),
    "llama-all-linear": Architecture(
        LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, **SIZES),
        ("all-linear",),
        "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj",
    ),
    "qwen2": Architecture(
        Qwen2Config(num_key_value_heads=1, tie_word_embeddings=True, **SIZES), ("query", "value"), "q_proj|v_proj"
    ),
    "gpt-neox": Architecture(GPTNeoXConfig(**SIZES), ("query_key_value",), "query_key_value"),
}


@dataclass(frozen=True)
class EagerStep:
    """What PyTorch eager with PEFT computes, the loss being transformers' own; gradients by PEFT's adapter keys."""

    loss: float
    correct: int
    examples: int
    gradients: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class TinyLanguageModel:
    """A tiny model: its reference, its graphs and the folder where its ONNX files go."""

    name: str
    reference: PeftModel
    model: LoraModel
    recorded: JointGraph
    training: JointGraph
    evaluation: JointGraph
    folder: Path
    weights: Mapping[str, WeightEntry]

    def parameters(self, *, seed: int = 2) -> dict[str, Tensor]:
        """Every adapter moved away from its initial value (LoRA's B starts at zero)."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in self.model.trainable.items()
        }

    def batch(self, rows: int, *, seed: int = 1) -> dict[str, Tensor]:
        """Random tokens with a padded tail, of one row all but one token; of several rows the last does not count."""
        generator = torch.Generator().manual_seed(seed)
        mask = torch.ones(rows, SEQUENCE_LENGTH, dtype=torch.long)
        for row in range(rows):
            mask[row, SEQUENCE_LENGTH - 5 * (row % 4) :] = 0
        ids = torch.randint(5, len(VOCABULARY), mask.shape, generator=generator) * mask
        labels = torch.where(mask == 1, ids, -100)
        labels[max(1, rows - 1) :] = -100
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def eager(self, parameters: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> EagerStep:
        """One step of the reference."""
        set_peft_model_state_dict(self.reference, dict(parameters))
        self.reference.zero_grad()
        output = self.reference(**batch)
        output.loss.backward()
        found = {name: value.grad for name, value in self.reference.named_parameters() if value.requires_grad}
        gradients = get_peft_model_state_dict(self.reference, state_dict=found)
        following = batch["labels"][:, 1:]
        return EagerStep(
            loss=output.loss.item(),
            correct=int((output.logits[:, :-1].argmax(-1) == following).sum()),
            examples=int((following != -100).sum()),
            gradients={name: gradient.numpy().copy() for name, gradient in gradients.items()},
        )

    def member(self, depth: int, quantized_layers: int = 0) -> JointGraph:
        """The graph of one member, made once per session."""
        return _member(self, depth, quantized_layers)

    def step(
        self,
        parameters: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        *,
        depth: int = LAYERS,
        quantized_layers: int = 0,
    ) -> StepResult:
        """Run a member in ONNX Runtime."""
        return _engine(self, depth, quantized_layers).step(arrays(parameters), as_batch(batch))

    def evaluate(self, parameters: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> EvaluationResult:
        """Run the evaluation graph in ONNX Runtime."""
        return _evaluation_engine(self).evaluate(arrays(parameters), as_batch(batch))


@cache
def _member(tiny: TinyLanguageModel, depth: int, quantized_layers: int) -> JointGraph:
    return at_quantization(at_depth(tiny.training, depth), quantized_layers, StashFormats(StashFormat(8, 16)))


@cache
def _engine(tiny: TinyLanguageModel, depth: int, quantized_layers: int) -> OnnxTrainingEngine:
    graph = _member(tiny, depth, quantized_layers)
    path = tiny.folder / f"d{depth}-q{quantized_layers}.onnx"
    path.write_bytes(lower_to_onnx(graph, tiny.weights).content)
    return OnnxTrainingEngine(path, inputs=input_specs(graph), outputs=output_specs(graph), label=path.stem)


@cache
def _evaluation_engine(tiny: TinyLanguageModel) -> OnnxEvaluationEngine:
    graph, path = tiny.evaluation, tiny.folder / "eval.onnx"
    path.write_bytes(lower_to_onnx(graph, tiny.weights).content)
    return OnnxEvaluationEngine(path, inputs=input_specs(graph), outputs=output_specs(graph))


def random_language_model(name: str) -> nn.Module:
    """A model with random weights, the same ones every time."""
    torch.manual_seed(0)
    config = deepcopy(ARCHITECTURES[name].config)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@cache
def _tiny(name: str, int8: bool, root: Path) -> TinyLanguageModel:
    architecture, model = ARCHITECTURES[name], random_language_model(name)
    base = deepcopy(model)
    if int8:
        round_weights(base)
    recipe = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=rf".*\.layers\.\d+\.(.*\.)?({architecture.leaves})",
        task_type="CAUSAL_LM",
    )
    reference = get_peft_model(base, recipe).eval()
    lora = add_lora(model, rank=RANK, alpha=ALPHA, target_modules=architecture.targets, task="causal-lm")
    lora = with_int8_weights(lora) if int8 else lora
    shape = {"batch_size": BATCH_SIZE, "sequence_length": SEQUENCE_LENGTH}
    recorded = trace_training(lora, **shape)
    training, evaluation = (
        store_int8_weights(made_lean(each), lora.int8_weights) for each in (recorded, trace_evaluation(lora, **shape))
    )
    folder = root / f"{name}{'-int8' * int8}"
    folder.mkdir()
    weights = write_weights(folder / "weights.bin", weight_tensors(training, evaluation))
    return TinyLanguageModel(name, reference, lora, recorded, training, evaluation, folder, weights)


@pytest.fixture(scope="session")
def make_language_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyLanguageModel]:
    """``make_language_model("llama", int8=False)``, each made once."""
    root = tmp_path_factory.mktemp("language-models")
    return lambda name, int8=False: _tiny(name, int8, root)


@pytest.fixture(params=list(ARCHITECTURES))
def tiny(request: pytest.FixtureRequest, make_language_model: Callable[[str], TinyLanguageModel]) -> TinyLanguageModel:
    """Every architecture."""
    return make_language_model(request.param)


@pytest.fixture
def llama(make_language_model: Callable[[str], TinyLanguageModel]) -> TinyLanguageModel:
    """One architecture, where the property does not depend on it."""
    return make_language_model("llama")


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained Llama, in a folder, with a tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    random_language_model("llama").save_pretrained(folder)
    word_piece_tokenizer().save_pretrained(folder)
    return folder
