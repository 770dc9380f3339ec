"""Five tiny encoders, traced once per session, each with an independent PyTorch + PEFT reference beside it."""

import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers reads it: tests never leave the machine

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from quadloom_export.graph import JointGraph
from quadloom_export.lowering.onnx import input_specs, lower_to_onnx, output_specs, weight_tensors
from quadloom_export.lowering.weights import WeightEntry, write_weights
from quadloom_export.model import LoraModel, add_lora
from quadloom_export.passes.quantize import StashFormat, StashFormats
from quadloom_export.passes.weight_only import store_int8_weights
from quadloom_export.pipeline import at_depth, at_quantization, made_lean
from quadloom_export.trace import trace_evaluation, trace_training
from quadloom_export.weight_only import with_int8_weights
from quadloom_runtime.engines.engine import Batch, EvaluationResult, FloatArray, StepResult
from quadloom_runtime.engines.onnx import OnnxEvaluationEngine, OnnxTrainingEngine

torch.set_num_threads(1)

LAYERS = 3
BATCH_SIZE = 8
SEQUENCE_LENGTH = 16
RANK = 4
ALPHA = 8.0
CHARACTERS = "abcdefghijklmnopqrstuvwxyz.,;'"
VOCABULARY = {
    word: index
    for index, word in enumerate(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{letter}" for letter in CHARACTERS)]
    )
}


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, and in PEFT's own terms what LoRA adapts and what trains whole."""

    config: Callable[[int], object]
    query_value: str
    all_linear: str
    head: tuple[str, ...]
    token_types: bool = False


SIZES = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
ARCHITECTURES = {
    "bert": Architecture(
        lambda layers: BertConfig(num_hidden_layers=layers, max_position_embeddings=32, **SIZES),
        query_value="query|value",
        all_linear="query|key|value|dense",
        head=("classifier",),
        token_types=True,
    ),
    "roberta": Architecture(
        lambda layers: RobertaConfig(
            num_hidden_layers=layers, max_position_embeddings=32, pad_token_id=0, type_vocab_size=1, **SIZES
        ),
        query_value="query|value",
        all_linear="query|key|value|dense",
        head=("classifier",),
    ),
    "distilbert": Architecture(
        lambda layers: DistilBertConfig(
            vocab_size=len(VOCABULARY), dim=32, n_layers=layers, n_heads=4, hidden_dim=64, max_position_embeddings=32
        ),
        query_value="q_lin|v_lin",
        all_linear="q_lin|k_lin|v_lin|out_lin|lin1|lin2",
        head=("pre_classifier", "classifier"),
    ),
    "mpnet": Architecture(
        lambda layers: MPNetConfig(num_hidden_layers=layers, max_position_embeddings=32, pad_token_id=0, **SIZES),
        query_value="q|v",
        all_linear="q|k|v|o|dense",
        head=("classifier",),
    ),
    "deberta": Architecture(
        lambda layers: DebertaV2Config(
            num_hidden_layers=layers,
            max_position_embeddings=32,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            **SIZES,
        ),
        query_value="query_proj|value_proj",
        all_linear="query_proj|key_proj|value_proj|dense",
        head=("pooler", "classifier"),
    ),
}


@dataclass(frozen=True)
class EagerStep:
    """What PyTorch eager with PEFT computes; gradients by PEFT's own adapter keys."""

    loss: float
    correct: int
    examples: int
    logits: FloatArray
    gradients: dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Tiny:
    """A tiny model: its reference, its graphs and the folder where its ONNX files go.

    Attributes:
        reference: the model with LoRA put on by PEFT alone, from a recipe that the exporter never saw.
        recorded, evaluation_recorded: full-depth graphs as traced, before any pass.
        training, evaluation: the same after the passes that every member shares.
    """

    name: str
    reference: PeftModel
    model: LoraModel
    recorded: JointGraph
    evaluation_recorded: JointGraph
    training: JointGraph
    evaluation: JointGraph
    folder: Path
    weights: Mapping[str, WeightEntry]

    def parameters(self, *, seed: int = 2) -> dict[str, Tensor]:
        """Every adapter and the head moved away from its initial value (LoRA's B starts at zero)."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in self.model.trainable.items()
        }

    def batch(self, rows: int, *, ignored: int | None = None, seed: int = 1) -> dict[str, Tensor]:
        """Random tokens with a padded tail; the last `ignored` rows do not count (by default one, of several)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (rows, SEQUENCE_LENGTH)
        mask = torch.ones(shape, dtype=torch.long)
        for row in range(rows):
            mask[row, SEQUENCE_LENGTH - row % 7 :] = 0
        ids = torch.randint(5, len(VOCABULARY), shape, generator=generator) * mask
        labels = torch.randint(0, 2, (rows,), generator=generator)
        labels[rows - (min(1, rows - 1) if ignored is None else ignored) :] = -100
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if ARCHITECTURES[self.name].token_types:
            batch["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
        return batch

    def eager(self, parameters: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> EagerStep:
        """One step of the reference."""
        set_peft_model_state_dict(self.reference, dict(parameters))
        self.reference.zero_grad()
        labels = batch["labels"]
        logits = self.reference(**{name: value for name, value in batch.items() if name != "labels"}).logits
        loss = nn.functional.cross_entropy(logits, labels, ignore_index=-100)
        loss.backward()
        found = {name: value.grad for name, value in self.reference.named_parameters() if value.requires_grad}
        gradients = get_peft_model_state_dict(self.reference, state_dict=found)
        return EagerStep(
            loss=loss.item(),
            correct=int((logits.argmax(1) == labels).sum()),
            examples=int((labels != -100).sum()),
            logits=logits.detach().numpy(),
            gradients={name: gradient.numpy().copy() for name, gradient in gradients.items()},
        )

    def member(self, depth: int, quantized_layers: int = 0, *, bits: int = 8) -> JointGraph:
        """The graph of one member, made once per session."""
        return _member(self, depth, quantized_layers, bits)

    def step(
        self,
        parameters: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        *,
        depth: int,
        quantized_layers: int = 0,
        bits: int = 8,
    ) -> StepResult:
        """Run a member in ONNX Runtime."""
        return _engine(self, depth, quantized_layers, bits).step(arrays(parameters), as_batch(batch))

    def evaluate(self, parameters: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> EvaluationResult:
        """Run the evaluation graph in ONNX Runtime."""
        return _evaluation_engine(self).evaluate(arrays(parameters), as_batch(batch))

    def layer_of(self) -> dict[str, int | str]:
        """Layer per trainable tensor, ``head`` for the head."""
        return {row.name: row.layer for row in self.model.parameters}


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}


def as_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """A batch for an engine; token types default to zeros."""
    found = arrays(tensors)
    token_types = found.get("token_type_ids", np.zeros_like(found["input_ids"]))
    return Batch(found["input_ids"], found["attention_mask"], token_types, found["labels"])


@cache
def _member(tiny: Tiny, depth: int, quantized_layers: int, bits: int) -> JointGraph:
    if quantized_layers:
        return at_quantization(_member(tiny, depth, 0, 8), quantized_layers, StashFormats(StashFormat(bits, 16)))
    return at_depth(tiny.training, depth)


@cache
def _engine(tiny: Tiny, depth: int, quantized_layers: int, bits: int) -> OnnxTrainingEngine:
    graph = _member(tiny, depth, quantized_layers, bits)
    path = tiny.folder / f"d{depth}-q{quantized_layers}-{bits}.onnx"
    path.write_bytes(lower_to_onnx(graph, tiny.weights).content)
    return OnnxTrainingEngine(path, inputs=input_specs(graph), outputs=output_specs(graph), label=path.stem)


@cache
def _evaluation_engine(tiny: Tiny) -> OnnxEvaluationEngine:
    graph, path = tiny.evaluation, tiny.folder / "eval.onnx"
    path.write_bytes(lower_to_onnx(graph, tiny.weights).content)
    return OnnxEvaluationEngine(path, inputs=input_specs(graph), outputs=output_specs(graph))


def random_classifier(name: str, *, layers: int = LAYERS) -> nn.Module:
    """A classifier with random weights, the same ones every time."""
    torch.manual_seed(0)
    config = ARCHITECTURES[name].config(layers)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()


def reference_adapter(name: str, model: nn.Module, *, all_linear: bool) -> PeftModel:
    """LoRA as a PEFT user would put it on `model`."""
    architecture = ARCHITECTURES[name]
    leaves = architecture.all_linear if all_linear else architecture.query_value
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=rf".*\.layer\.\d+\.(.*\.)?({leaves})",
        modules_to_save=list(architecture.head),
        task_type="SEQ_CLS",
    )
    return get_peft_model(model, config).eval()


def round_weights(model: nn.Module) -> None:
    """What INT8 weights stand for, per output of every linear module of the layers."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and re.search(r"\.layers?\.\d+\.", name):
            scale = module.weight.data.abs().amax(1, keepdim=True) / 127
            module.weight.data = (module.weight.data / scale).round() * scale


@cache
def _tiny(name: str, all_linear: bool, int8: bool, root: Path) -> Tiny:
    model = random_classifier(name)
    base = deepcopy(model)
    if int8:
        round_weights(base)
    reference = reference_adapter(name, base, all_linear=all_linear)
    targets = ("all-linear",) if all_linear else ("query", "value")
    lora = add_lora(model, rank=RANK, alpha=ALPHA, target_modules=targets)
    lora = with_int8_weights(lora) if int8 else lora
    shape = {"batch_size": BATCH_SIZE, "sequence_length": SEQUENCE_LENGTH}
    recorded, evaluation_recorded = trace_training(lora, **shape), trace_evaluation(lora, **shape)
    training, evaluation = (
        store_int8_weights(made_lean(each), lora.int8_weights) for each in (recorded, evaluation_recorded)
    )
    folder = root / f"{name}-{targets[0]}{'-int8' * int8}"
    folder.mkdir()
    weights = write_weights(folder / "weights.bin", weight_tensors(training, evaluation))
    return Tiny(name, reference, lora, recorded, evaluation_recorded, training, evaluation, folder, weights)


TinyFactory = Callable[..., Tiny]


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's ONNX files lie."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def make_tiny(tiny_root: Path) -> TinyFactory:
    """``make_tiny("bert", all_linear=False, int8=False)``, each made once."""
    return lambda name, all_linear=False, int8=False: _tiny(name, all_linear, int8, tiny_root)


@pytest.fixture(params=list(ARCHITECTURES))
def tiny(request: pytest.FixtureRequest, make_tiny: TinyFactory) -> Tiny:
    """Every architecture, LoRA on query and value."""
    return make_tiny(request.param)


@pytest.fixture
def bert(make_tiny: TinyFactory) -> Tiny:
    """One architecture, where the property does not depend on it."""
    return make_tiny("bert")


@pytest.fixture(scope="session")
def make_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_model_folder("bert", layers=2)``: a pretrained encoder without a classification head, and a tokenizer."""

    def make(name: str, *, layers: int = 2) -> Path:
        folder = tmp_path_factory.mktemp(name)
        model = random_classifier(name, layers=layers)
        getattr(model, model.base_model_prefix).save_pretrained(folder)
        word_piece_tokenizer().save_pretrained(folder)
        return folder

    return make


def word_piece_tokenizer() -> PreTrainedTokenizerFast:
    """Spells every word in letters."""
    tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def word_pieces() -> Tokenizer:
    """The bare tokenizer behind `word_piece_tokenizer`, set to nothing yet."""
    tokenizer = word_piece_tokenizer().backend_tokenizer
    tokenizer.enable_truncation(SEQUENCE_LENGTH)
    return tokenizer
