"""A family whose graphs train in milliseconds and whose files are still large enough to be cut in the middle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from tests.bound_graph import bound
from tokenizers import Tokenizer, models, pre_tokenizers

from quadloom_runtime.contract.manifest import (
    BatchSpec,
    FamilyManifest,
    FormatSpec,
    GradientError,
    LoraSpec,
    MemberKey,
    MemberSpec,
    ModelSpec,
    ParameterSpec,
    StashSpec,
    TaskSpec,
    TensorSpec,
)
from quadloom_runtime.family_folder import blob_reference, save_manifest

WORDS = ("[PAD]", "[UNK]", "good", "fine", "bad", "dull", "film", "story")
HIDDEN, LABELS, BATCH, LENGTH = 192, 2, 4, 5
RANK = 96
"""So large that an update is: links cut it in the middle."""
LAYERS = 2
WEIGHT_BYTES = 700_000
PLANNED_PEAK_BYTES = {1: 1_000_000, 2: 100_000_000}
"""By depth: which of the two a device gets follows from its memory limit."""
TABLE = (
    *(
        ParameterSpec(name=f"layer{n}.lora_{half}.weight", shape=shape, layer=n, rank=RANK)
        for n in range(LAYERS)
        for half, shape in (("A", (RANK, HIDDEN)), ("B", (HIDDEN, RANK)))
    ),
    ParameterSpec(name="weight", shape=(LABELS, HIDDEN), layer="head", rank=None),
    ParameterSpec(name="bias", shape=(LABELS,), layer="head", rank=None),
)
INPUTS = (
    TensorSpec(name="input_ids", dtype="int64", shape=(BATCH, LENGTH)),
    TensorSpec(name="labels", dtype="int64", shape=(BATCH,)),
    *(TensorSpec(name=row.name, dtype="float32", shape=row.shape) for row in TABLE),
)
OCTETS = "application/octet-stream"


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


FORWARD = (
    node("Gather", "embedding input_ids", "tokens"),
    node("ReduceMean", "tokens one", "x0", keepdims=0),
    node("Gemm", "x0 layer0.lora_A.weight", "h0", transB=1),
    node("Gemm", "h0 layer0.lora_B.weight x0", "x1", transB=1),
    node("Gemm", "x1 layer1.lora_A.weight", "h1", transB=1),
    node("Gemm", "h1 layer1.lora_B.weight x1", "x2", transB=1),
    node("Gemm", "x2 weight bias", "logits", transB=1),
    node("LogSoftmax", "logits", "log_probabilities", axis=1),
    node("OneHot", "labels labels_count off_on", "wanted", axis=1),
    node("Mul", "wanted log_probabilities", "log_likelihoods"),
    node("ReduceSum", "log_likelihoods", "log_likelihood", keepdims=0),
    node("Div", "log_likelihood minus_batch", "loss"),
    node("ArgMax", "logits", "predicted", axis=1, keepdims=0),
    node("Equal", "predicted labels", "right"),
    node("Cast", "right", "right_count", to=TensorProto.INT64),
    node("ReduceSum", "right_count", "correct_count", keepdims=0),
    node("Identity", "batch", "example_count"),
)
HEAD_BACKWARD = (
    node("Exp", "log_probabilities", "probabilities"),
    node("Sub", "wanted probabilities", "difference"),
    node("Div", "difference minus_batch", "d_logits"),
    node("Gemm", "d_logits x2", "gradient.weight", transA=1),
    node("ReduceSum", "d_logits zero", "gradient.bias", keepdims=0),
    node("MatMul", "d_logits weight", "d_x2"),
)
LAYERS_BACKWARD = (
    (
        node("Gemm", "d_x2 h1", "gradient.layer1.lora_B.weight", transA=1),
        node("MatMul", "d_x2 layer1.lora_B.weight", "d_h1"),
        node("Gemm", "d_h1 x1", "gradient.layer1.lora_A.weight", transA=1),
    ),
    (
        node("Gemm", "d_h1 layer1.lora_A.weight d_x2", "d_x1"),
        node("Gemm", "d_x1 h0", "gradient.layer0.lora_B.weight", transA=1),
        node("MatMul", "d_x1 layer0.lora_B.weight", "d_h0"),
        node("Gemm", "d_h0 x0", "gradient.layer0.lora_A.weight", transA=1),
    ),
)


def write_family(folder: Path) -> Path:
    """Write a family with the members d01-q00 and d02-q00; returns its folder."""
    random = np.random.default_rng(0)
    for name in ("adapter", "tokenizer", "onnx"):
        (folder / name).mkdir(parents=True)
    (folder / "onnx/weights.bin").write_bytes(random.bytes(WEIGHT_BYTES))
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    adapter = {row.name: (0.05 * random.standard_normal(row.shape)).astype(np.float32) for row in TABLE}
    save_file(adapter, folder / "adapter/adapter_model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder / "tokenizer/tokenizer.json")
    embedding = random.standard_normal((len(WORDS), HIDDEN)).astype(np.float32)
    members = tuple(_member(folder, depth, embedding) for depth in PLANNED_PEAK_BYTES)
    save_manifest(folder, _manifest(folder, members))
    return folder


def write_examples(path: Path, *, seed: int, examples: int) -> Path:
    """Labelled text; every batch of it is full."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(examples):
        label = int(random.integers(LABELS))
        rows.append({"text": f"{random.choice(WORDS[4 - 2 * label : 6 - 2 * label])} film", "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(max_length=LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.save(str(path))


def _member(folder: Path, depth: int, embedding: np.ndarray) -> MemberSpec:
    path = f"onnx/train-d{depth:02d}-q00.onnx"
    trained = [row for row in TABLE if row.layer == "head" or row.layer >= LAYERS - depth]
    outputs = (
        TensorSpec(name="loss", dtype="float32", shape=()),
        TensorSpec(name="correct_count", dtype="int64", shape=()),
        TensorSpec(name="example_count", dtype="int64", shape=()),
        *(TensorSpec(name=f"gradient.{row.name}", dtype="float32", shape=row.shape) for row in trained),
    )
    constants = {
        "embedding": embedding,
        "zero": np.asarray([0]),
        "one": np.asarray([1]),
        "batch": np.asarray(BATCH),
        "minus_batch": np.asarray(-BATCH, np.float32),
        "labels_count": np.asarray(LABELS),
        "off_on": np.asarray([0, 1], np.float32),
    }
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    graph = helper.make_graph(
        [*FORWARD, *HEAD_BACKWARD, *(each for layer in LAYERS_BACKWARD[:depth] for each in layer)],
        "tiny",
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in INPUTS],
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / path).write_bytes(bound(model, outputs, batch_size=BATCH))
    return MemberSpec(
        key=MemberKey(depth=depth, quantized_layers=0),
        graph=blob_reference(folder, path, media_type="application/onnx"),
        planned_peak_bytes=PLANNED_PEAK_BYTES[depth],
        stash_bytes_before=0,
        stash_bytes_after=0,
        weight_bytes=WEIGHT_BYTES,
        forward_operations=1,
        backward_operations=1,
        quantized_elements=0,
        gradient_error=GradientError(relative_l2=0, worst_cosine=1, worst_tensor=None),
        inputs=INPUTS,
        outputs=outputs,
        peak_items=(),
    )


def _manifest(folder: Path, members: tuple[MemberSpec, ...]) -> FamilyManifest:
    weights = blob_reference(folder, "onnx/weights.bin", media_type=OCTETS)
    adapter = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    return FamilyManifest(
        quadloom_version="0",
        exporter_sha256="0" * 64,
        model=ModelSpec(source="tiny/model", architecture="Tiny", layers=LAYERS, parameters=1),
        task=TaskSpec(kind="sequence-classification", num_labels=LABELS),
        lora=LoraSpec(rank=RANK, alpha=RANK, target_modules=("layer",)),
        batch=BatchSpec(batch_size=BATCH, sequence_length=LENGTH),
        stash=StashSpec(bits=8, group_size=64),
        dropout=0.0,
        parameters=TABLE,
        formats=(FormatSpec(format="onnx", weights=weights, versions={"opset": 18, "ir": 9}),),
        members=members,
        evaluation=(),
        adapter=tuple(blob_reference(folder, each, media_type=OCTETS) for each in adapter),
        tokenizer=(blob_reference(folder, "tokenizer/tokenizer.json", media_type="application/json"),),
        missing=(),
    )
