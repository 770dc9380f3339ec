"""A tiny family whose graphs are written node by node, and a server that answers from a script and makes trouble."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
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
    PeakItem,
    StashSpec,
    TaskSpec,
    TensorSpec,
)
from quadloom_runtime.contract.wire import (
    Assignment,
    CheckInResponse,
    EnrolResponse,
    ErrorResponse,
    FailureReport,
    ReportResponse,
    TrainingSettings,
)
from quadloom_runtime.family_folder import blob_reference, file_sha256, save_manifest

VOCABULARY = ("[PAD]", "[UNK]", "good", "fine", "bad", "dull", "film", "story")
HIDDEN, LABELS, BATCH, LENGTH = 16, 2, 4, 5
BALLAST_BYTES = 200_000_000
"""What a step of the hungry member, d01-q00, holds for a moment."""
TABLE = (
    ParameterSpec(name="layer.lora", shape=(HIDDEN, HIDDEN), layer=0, rank=4),
    ParameterSpec(name="head.weight", shape=(LABELS, HIDDEN), layer="head", rank=None),
    ParameterSpec(name="head.bias", shape=(LABELS,), layer="head", rank=None),
)
INPUTS = (
    TensorSpec(name="input_ids", dtype="int64", shape=(BATCH, LENGTH)),
    TensorSpec(name="attention_mask", dtype="int64", shape=(BATCH, LENGTH)),
    TensorSpec(name="labels", dtype="int64", shape=(BATCH,)),
    *(TensorSpec(name=row.name, dtype="float32", shape=row.shape) for row in TABLE),
)


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def training_nodes(*, depth: int, hungry: bool) -> list[onnx.NodeProto]:
    """x: mean token embedding; h = x + x lora; softmax(h weight^T + bias); the gradients are written out by hand."""
    nodes = [
        node("Gather", "embedding input_ids", "tokens"),
        node("Cast", "attention_mask", "mask", to=TensorProto.FLOAT),
        node("Unsqueeze", "mask last", "mask_columns"),
        node("Mul", "tokens mask_columns", "masked"),
        node("ReduceSum", "masked one", "total", keepdims=0),
        node("ReduceSum", "mask one", "length", keepdims=1),
        node("Div", "total length", "x"),
        node("MatMul", "x layer.lora", "change"),
        node("Add", "x change", "h"),
        node("Gemm", "h head.weight head.bias", "logits", transB=1),
        node("Softmax", "logits", "probabilities", axis=1),
        node("Equal", "labels ignored", "is_padding"),
        node("Not", "is_padding", "counts"),
        node("Cast", "counts", "counted", to=TensorProto.FLOAT),
        node("ReduceSum", "counted", "examples", keepdims=0),
        node("Max", "labels zero", "classes"),
        node("OneHot", "classes labels_count off_on", "wanted", axis=1),
        node("Mul", "wanted probabilities", "hit"),
        node("ReduceSum", "hit one", "likelihood", keepdims=0),
        node("Log", "likelihood", "log_likelihood"),
        node("Mul", "log_likelihood counted", "log_counted"),
        node("ReduceSum", "log_counted", "log_sum", keepdims=0),
        node("Div", "log_sum examples", "log_mean"),
        node("Neg", "log_mean", "plain_loss"),
        node("ArgMax", "logits", "predicted", axis=1, keepdims=0),
        node("Equal", "predicted labels", "right"),
        node("Cast", "right", "right_count", to=TensorProto.INT64),
        node("ReduceSum", "right_count", "correct_count", keepdims=0),
        node("Cast", "examples", "example_count", to=TensorProto.INT64),
        node("Sub", "probabilities wanted", "difference"),
        node("Unsqueeze", "counted last1", "counted_column"),
        node("Mul", "difference counted_column", "difference_counted"),
        node("Div", "difference_counted examples", "d_logits"),
        node("Gemm", "d_logits h", "gradient.head.weight", transA=1),
        node("ReduceSum", "d_logits rows", "gradient.head.bias", keepdims=0),
    ]
    if depth == 1:
        nodes += [
            node("MatMul", "d_logits head.weight", "d_h"),
            node("Gemm", "x d_h", "gradient.layer.lora", transA=1),
        ]
    if hungry:
        nodes += [
            node("Expand", "nothing ballast_shape", "ballast"),
            node("ReduceSum", "ballast", "ballast_sum", keepdims=0),
            node("Add", "plain_loss ballast_sum", "loss"),
        ]
    else:
        nodes.append(node("Identity", "plain_loss", "loss"))
    return nodes


def constants() -> list[onnx.TensorProto]:
    values = {
        "last": np.asarray([2]),
        "last1": np.asarray([1]),
        "one": np.asarray([1]),
        "rows": np.asarray([0]),
        "ignored": np.asarray(-100),
        "zero": np.asarray(0),
        "labels_count": np.asarray(LABELS),
        "off_on": np.asarray([0, 1], np.float32),
        "nothing": np.zeros(1, np.float32),
        "ballast_shape": np.asarray([BALLAST_BYTES // 4]),
    }
    return [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]


def write_graph(path: Path, *, depth: int, hungry: bool) -> tuple[TensorSpec, ...]:
    """Write one training graph with the embedding in ``weights.bin`` beside it; returns its outputs."""
    outputs = [
        TensorSpec(name="loss", dtype="float32", shape=()),
        TensorSpec(name="correct_count", dtype="int64", shape=()),
        TensorSpec(name="example_count", dtype="int64", shape=()),
        *(
            TensorSpec(name=f"gradient.{row.name}", dtype="float32", shape=row.shape)
            for row in TABLE
            if row.layer == "head" or depth == 1
        ),
    ]
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    embedding = TensorProto(name="embedding", data_type=TensorProto.FLOAT, dims=(len(VOCABULARY), HIDDEN))
    embedding.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "0", "length": str(4 * len(VOCABULARY) * HIDDEN)}.items():
        embedding.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        training_nodes(depth=depth, hungry=hungry),
        "tiny",
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in INPUTS],
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in outputs],
        [embedding, *constants()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    ballast = TensorSpec(name="ballast", dtype="float32", shape=(BALLAST_BYTES // 4,))
    path.write_bytes(bound(model, [*outputs, ballast] if hungry else outputs, batch_size=BATCH))
    return tuple(outputs)


def write_tokenizer(path: Path) -> None:
    vocabulary = {word: place for place, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(max_length=LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    tokenizer.save(str(path))


def member_spec(folder: Path, key: MemberKey) -> MemberSpec:
    path = f"onnx/train-{key.label}.onnx"
    outputs = write_graph(folder / path, depth=key.depth, hungry=(key.depth, key.quantized_layers) == (1, 0))
    return MemberSpec(
        key=key,
        graph=blob_reference(folder, path, media_type="application/onnx"),
        planned_peak_bytes=3_000_000 - 1_000_000 * key.quantized_layers,
        stash_bytes_before=2_000_000,
        stash_bytes_after=2_000_000 - 1_500_000 * key.quantized_layers,
        weight_bytes=512,
        forward_operations=1000,
        backward_operations=2000,
        quantized_elements=500 * key.quantized_layers,
        gradient_error=GradientError(
            relative_l2=0.0123 * key.quantized_layers, worst_cosine=1 - 0.001 * key.quantized_layers, worst_tensor=None
        ),
        inputs=INPUTS,
        outputs=outputs,
        peak_items=(
            PeakItem(what="gelu input", layer=0, kind="stash", size_bytes=1_500_000, tensors=2),
            PeakItem(what="logits", layer="head", kind="transient", size_bytes=500_000, tensors=1),
        ),
    )


def write_family(folder: Path, *, missing: tuple[MemberKey, ...] = ()) -> FamilyManifest:
    """A family with the members d00-q00, d01-q00 (hungry) and d01-q01, the last two computing the same."""
    random = np.random.default_rng(0)
    for name in ("adapter", "tokenizer", "onnx"):
        (folder / name).mkdir(parents=True)
    weights = random.standard_normal((len(VOCABULARY), HIDDEN)).astype(np.float32).tobytes()
    (folder / "onnx/weights.bin").write_bytes(weights + bytes(500_000))
    write_tokenizer(folder / "tokenizer/tokenizer.json")
    adapter = {row.name: (0.1 * random.standard_normal(row.shape)).astype(np.float32) for row in TABLE}
    save_file(adapter, folder / "adapter/adapter_model.safetensors")
    octets = "application/octet-stream"
    keys = [MemberKey(depth=depth, quantized_layers=q) for depth, q in ((0, 0), (1, 0), (1, 1))]
    manifest = FamilyManifest(
        quadloom_version="0",
        exporter_sha256="0" * 64,
        model=ModelSpec(source="tiny/model", architecture="TinyForSequenceClassification", layers=1, parameters=144),
        task=TaskSpec(kind="sequence-classification", num_labels=LABELS),
        lora=LoraSpec(rank=4, alpha=8, target_modules=("layer",)),
        batch=BatchSpec(batch_size=BATCH, sequence_length=LENGTH),
        stash=StashSpec(bits=8, group_size=64),
        dropout=0.0,
        parameters=TABLE,
        formats=(
            FormatSpec(
                format="onnx",
                weights=blob_reference(folder, "onnx/weights.bin", media_type=octets),
                versions={"opset": 18, "ir": 9},
            ),
        ),
        members=tuple(member_spec(folder, key) for key in keys if key not in missing),
        evaluation=(),
        adapter=(blob_reference(folder, "adapter/adapter_model.safetensors", media_type=octets),),
        tokenizer=(blob_reference(folder, "tokenizer/tokenizer.json", media_type="application/json"),),
        missing=missing,
    )
    save_manifest(folder, manifest)
    return manifest


@pytest.fixture
def family(tmp_path: Path) -> tuple[Path, FamilyManifest]:
    """A complete family and its folder."""
    return tmp_path / "family", write_family(tmp_path / "family")


@pytest.fixture
def incomplete_family(tmp_path: Path) -> tuple[Path, FamilyManifest]:
    """A family whose export was interrupted."""
    missing = (MemberKey(depth=1, quantized_layers=1),)
    return tmp_path / "family", write_family(tmp_path / "family", missing=missing)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Eighteen labelled sentences: with batches of four the last one is short."""
    path = tmp_path / "data.jsonl"
    words = [("good", "fine"), ("bad", "dull")]
    rows = [
        {"text": f"{words[label][turn % 2]} {('film', 'story')[turn % 3 == 0]}", "label": 1 - label}
        for turn in range(9)
        for label in (0, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class ScriptedServer:
    """A real HTTP server. What it hands out and what goes wrong is set beforehand; what arrives is kept.

    Attributes:
        blobs: content per SHA-256.
        manifest_signature: sent along with the manifest's hash.
        assignments: handed out one after the other; each again until it is reported.
        faults: per path prefix, what to do to the next requests: ``unavailable``, ``drop`` (half of the body, then the
            connection ends), ``alter`` (a byte changed), ``ignore-range``, ``unknown-device``, ``refuse``, ``too-many``
            (asks for a pause of 3 seconds), ``too-slow``.
        requests: method, path and Range header of every request.
        updates, failures: what was reported, per assignment, in order of arrival.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.assignments: list[Assignment] = []
        self.manifest_sha256 = "0" * 64
        self.manifest_signature: str | None = None
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.updates: list[tuple[str, bytes]] = []
        self.failures: list[tuple[str, FailureReport]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.handle(self)

            def do_POST(self) -> None:
                server.handle(self)

            def do_PUT(self) -> None:
                server.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def offer(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = content
        return sha256

    def offer_family(self, folder: Path, manifest: FamilyManifest) -> None:
        """Serve every file of a family and its manifest."""
        for blob in manifest.blobs():
            self.blobs[blob.sha256] = (folder / blob.path).read_bytes()
        self.manifest_sha256 = file_sha256(folder / "family.json")
        self.blobs[self.manifest_sha256] = (folder / "family.json").read_bytes()

    def assign(
        self, manifest: FamilyManifest, key: MemberKey, *, settings: TrainingSettings, assignment_id: str
    ) -> Assignment:
        """Queue an assignment of one member."""
        member = next(each for each in manifest.members if each.key == key)
        assignment = Assignment(
            assignment_id=assignment_id,
            task_id="task",
            round_index=len(self.assignments) + 1,
            member=key,
            rank=4,
            manifest_sha256=self.manifest_sha256,
            manifest_signature=self.manifest_signature,
            adapter=manifest.adapter[0],
            blobs=(member.graph, manifest.format_spec("onnx").weights, *manifest.tokenizer),
            settings=settings,
            deadline_s=60,
            retry_after_accepted_s=0.01,
            retry_after_rejected_s=0.02,
            reason="the test says so",
        )
        self.assignments.append(assignment)
        return assignment

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        wanted_range = handler.headers.get("range")
        self.requests.append((handler.command, handler.path, wanted_range))
        queued = next((faults for prefix, faults in self.faults.items() if handler.path.startswith(prefix)), [])
        fault = queued.pop(0) if queued else ""
        refusals = {"unavailable": 503, "unknown-device": 404, "refuse": 422, "too-many": 429, "too-slow": 408}
        if fault in refusals:
            self._send(handler, refusals[fault], error(fault))
        elif handler.path.startswith("/v1/blobs/"):
            self._send_blob(handler, fault, None if fault == "ignore-range" else wanted_range)
        else:
            self._send(handler, 200, self._answer(handler.path, body).encode())

    def _send_blob(self, handler: BaseHTTPRequestHandler, fault: str, wanted_range: str | None) -> None:
        content = self.blobs.get(handler.path.rsplit("/", 1)[1])
        if content is None:
            self._send(handler, 404, error("unknown-blob"))
            return
        start = int(wanted_range.removeprefix("bytes=").removesuffix("-")) if wanted_range else 0
        if start >= len(content):
            self._send(handler, 416, error("range-not-satisfiable"))
            return
        part = content[start:]
        if fault == "alter":
            part = bytes([part[0] ^ 1]) + part[1:]
        self._send(handler, 206 if wanted_range else 200, part, cut=fault == "drop")

    def _send(self, handler: BaseHTTPRequestHandler, status: int, content: bytes, *, cut: bool = False) -> None:
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        if status == 429:
            handler.send_header("retry-after", "3")
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if cut else content)

    def _answer(self, path: str, body: bytes) -> str:
        if path == "/v1/devices":
            return EnrolResponse(
                device_id="device-1",
                manifest_sha256=self.manifest_sha256,
                manifest_signature=self.manifest_signature,
            ).model_dump_json()
        if path.endswith("/check-in"):
            open_work = self.assignments[0] if self.assignments else None
            return CheckInResponse(
                task_state="running" if open_work else "finished",
                assignment=open_work,
                retry_after_s=0.01,
                reason="all is done",
            ).model_dump_json()
        assignment_id = path.split("/")[3]
        if path.endswith("/update"):
            self.updates.append((assignment_id, body))
        else:
            self.failures.append((assignment_id, FailureReport.model_validate_json(body)))
        self.assignments = [each for each in self.assignments if each.assignment_id != assignment_id]
        return ReportResponse(status="accepted", reason="counted").model_dump_json()


def error(code: str) -> bytes:
    return ErrorResponse(code=code, cause=f"the test says {code}", remedy="none").model_dump_json().encode()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A running scripted server."""
    running = ScriptedServer()
    yield running
    running.close()
