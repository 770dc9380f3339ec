"""Members packaged for onnxruntime-training, and what ONNX Runtime's own tool makes of the same model."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from quadloom_export.lowering.onnx import translate_graph
from quadloom_export.lowering.ort_training import AdamWSettings, optimizer_model, save_ort_training
from quadloom_runtime.engines.ort_package import require_training_package
from quadloom_runtime.engines.ort_training import EVALUATION_NAME, OPTIMIZER_NAME, OrtTrainingEngine
from quadloom_runtime.errors import QuadloomError


@pytest.fixture(scope="session", autouse=True)
def training_package() -> None:
    """Skips where `onnxruntime` is not the training package: run.sh makes the environment."""
    try:
        require_training_package()
    except QuadloomError as error:
        pytest.skip(str(error))


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in tensors.items()}


@pytest.fixture
def open_member(tmp_path: Path) -> Callable[..., OrtTrainingEngine]:
    """``open_member(tiny, depth=3)``: write a member, with the tiny model's moved parameters, and load it."""

    def make(tiny: Any, *, depth: int, quantized_layers: int = 0, weight_decay: float = 0.0) -> OrtTrainingEngine:
        graph = tmp_path / f"ort-train-d{depth:02d}-q{quantized_layers:02d}.onnx"
        shutil.copyfile(tiny.folder / "weights.bin", tmp_path / "weights.bin")
        save_ort_training(graph, tiny.member(depth, quantized_layers), arrays(tiny.parameters()), weights=tiny.weights)
        plain = translate_graph(tiny.evaluation, tiny.weights).model()
        (tmp_path / EVALUATION_NAME).write_bytes(plain.SerializeToString())
        optimizer = optimizer_model(AdamWSettings(weight_decay=weight_decay))
        (tmp_path / OPTIMIZER_NAME).write_bytes(optimizer.SerializeToString())
        return OrtTrainingEngine(graph, label=graph.stem)

    return make


@dataclass
class Reference:
    """A model that `generate_artifacts` differentiated; parameters and gradients by PEFT's adapter keys."""

    state: Any
    module: Any
    optimizer: Any
    names: Mapping[str, str]

    def step(self, batch: Mapping[str, Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients."""
        self.module.train()
        self.module.lazy_reset_grad()
        loss = self.module(*(batch[name].numpy() for name in self.module.input_names()))
        gradients = {key: np.array(self.state.parameters[name].grad) for key, name in self.names.items()}
        return float(loss), gradients

    def train(self, batch: Mapping[str, Tensor], *, learning_rate: float) -> float:
        loss, _ = self.step(batch)
        self.optimizer.set_learning_rate(learning_rate)
        self.optimizer.step()
        return loss

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        return {key: np.array(self.state.parameters[name].data) for key, name in self.names.items()}


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.logits


@pytest.fixture
def reference(tmp_path: Path) -> Callable[..., Reference]:
    """``reference(bert, trained, weight_decay=0.1)``: the model's forward in ONNX, everything else ONNX Runtime's."""

    def make(bert: Any, trained: set[str], *, weight_decay: float) -> Reference:
        import onnxruntime
        from onnxruntime.training import artifacts, onnxblock
        from onnxruntime.training.api import CheckpointState, Module, Optimizer

        onnxruntime.set_default_logger_severity(3)
        bert.eager(bert.parameters(), bert.batch(8))  # puts the parameters into the reference model
        # The exporter leaves the model in the mode in which it found the outermost module.
        wrapped = _Logits(bert.reference).eval()
        own_names = {f"model.{name}" for name, value in bert.reference.named_parameters() if value.requires_grad}
        keys = get_peft_model_state_dict(
            bert.reference, state_dict={name.removeprefix("model."): name for name in own_names}
        )
        names = {key: name for key, name in keys.items() if key in trained}
        _export_forward(wrapped, bert.batch(8), tmp_path / "forward.onnx")
        artifacts.generate_artifacts(
            _without_shared_initializers(onnx.load(tmp_path / "forward.onnx")),
            requires_grad=list(names.values()),
            loss=onnxblock.loss.CrossEntropyLoss(ignore_index=-100),
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=tmp_path,
        )
        _use_torch_formula(tmp_path / "optimizer_model.onnx", weight_decay)
        state = CheckpointState.load_checkpoint(str(tmp_path / "checkpoint"))
        module = Module(str(tmp_path / "training_model.onnx"), state)
        return Reference(state, module, Optimizer(str(tmp_path / "optimizer_model.onnx"), module), names)

    return make


def _export_forward(model: nn.Module, batch: Mapping[str, Tensor], path: Path) -> None:
    """Opset 16 has no LayerNormalization: the gradients are those of elementary operators."""
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(batch[name] for name in inputs),
            path,
            dynamo=False,
            opset_version=16,
            do_constant_folding=False,
            input_names=inputs,
            output_names=["logits"],
        )


def _without_shared_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter lets equal tensors share one initializer, which the gradient builder then differentiates twice."""
    initializers = {each.name: each for each in model.graph.initializer}
    for node in [each for each in model.graph.node if each.op_type == "Identity" and each.input[0] in initializers]:
        copy = model.graph.initializer.add()
        copy.CopyFrom(initializers[node.input[0]])
        copy.name = node.output[0]
        model.graph.node.remove(node)
    return model


def _use_torch_formula(path: Path, weight_decay: float) -> None:
    """The tool writes Hugging Face's formula, epsilon 1e-6 and a file newer than its own runtime reads."""
    model = onnx.load(path)
    model.ir_version = 8
    values = {"adam_mode": 0, "epsilon": 1e-8, "weight_decay": weight_decay}
    for attribute in model.graph.node[0].attribute:
        if attribute.name in values:
            field = "i" if attribute.type == onnx.AttributeProto.INT else "f"
            setattr(attribute, field, values[attribute.name])
    onnx.save(model, path)
