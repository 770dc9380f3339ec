"""A tiny synthetic family, and a task over it with a clock and a background that the test drives."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save, save_file

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.contract.administration import IssueTokenRequest
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
)
from quadloom_runtime.contract.signatures import parse_signature, sign
from quadloom_runtime.contract.wire import (
    Assignment,
    Capabilities,
    EnrolRequest,
    Evaluation,
    ReportResponse,
    TrainingSettings,
    UpdateReport,
)
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.family_folder import blob_reference, save_manifest
from quadloom_runtime.keys import public_key_text
from quadloom_server.family import ServedFamily, open_family
from quadloom_server.rounds.evaluation import Evaluator
from quadloom_server.rounds.machine import Rounds
from quadloom_server.rounds.policy import RoundPolicy
from quadloom_server.state import ServerState, open_state
from quadloom_server.trust import tokens

LAYERS = 2
PLANNED_MEGABYTES = {(0, 0): 10, (1, 0): 30, (1, 1): 25, (2, 0): 60, (2, 1): 50, (2, 2): 40}
LARGE_MEMORY_BYTES = 100_000_000
TARGETS = ("query", "value")


def parameter_name(layer: int, target: str, matrix: str) -> str:
    return f"base_model.model.bert.encoder.layer.{layer}.attention.self.{target}.lora_{matrix}.weight"


def synthetic_parameters() -> tuple[ParameterSpec, ...]:
    rows = [
        ParameterSpec(name=parameter_name(layer, target, matrix), shape=shape, layer=layer, rank=2)
        for layer in range(LAYERS)
        for target in TARGETS
        for matrix, shape in (("A", (2, 8)), ("B", (8, 2)))
    ]
    rows.append(ParameterSpec(name="base_model.model.classifier.weight", shape=(2, 8), layer="head", rank=None))
    rows.append(ParameterSpec(name="base_model.model.classifier.bias", shape=(2,), layer="head", rank=None))
    return tuple(rows)


def write_family(
    folder: Path,
    *,
    parameters: tuple[ParameterSpec, ...] | None = None,
    adapter_config: Mapping[str, object] | None = None,
    missing: tuple[MemberKey, ...] = (),
    recompute_percent: int = 0,
    weights: bytes | None = None,
    seed: int = 0,
) -> Path:
    """Write a complete family whose graphs are random bytes; the adapter is random float32."""
    parameters = synthetic_parameters() if parameters is None else parameters
    random = np.random.default_rng(seed)
    for name in ("adapter", "tokenizer", "onnx"):
        (folder / name).mkdir(parents=True)
    tensors = {row.name: random.standard_normal(row.shape).astype(np.float32) for row in parameters}
    save_file(tensors, folder / "adapter/adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter/adapter_config.json").write_text(json.dumps(adapter_config or {"peft_type": "LORA"}))
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    (folder / "onnx/weights.bin").write_bytes(random.bytes(300_000) if weights is None else weights)
    keys = [
        MemberKey(depth=depth, quantized_layers=quantized, recompute_percent=recompute_percent if depth else 0)
        for depth, quantized in PLANNED_MEGABYTES
    ]
    members = []
    for key in [each for each in keys if each not in missing]:
        path = f"onnx/train-{key.label}.onnx"
        (folder / path).write_bytes(random.bytes(1000))
        members.append(_member(folder, key, path))
    save_manifest(folder, _manifest(folder, parameters, tuple(members), missing))
    return folder


def _member(folder: Path, key: MemberKey, path: str) -> MemberSpec:
    return MemberSpec(
        key=key,
        graph=blob_reference(folder, path, media_type="application/octet-stream"),
        planned_peak_bytes=PLANNED_MEGABYTES[key.depth, key.quantized_layers] * 1_000_000,
        stash_bytes_before=0,
        stash_bytes_after=0,
        weight_bytes=300_000,
        forward_operations=LAYERS * 10**9,
        backward_operations=key.depth * 10**9,
        quantized_elements=key.quantized_layers * 10**6,
        gradient_error=GradientError(relative_l2=0, worst_cosine=1, worst_tensor=None),
        inputs=(),
        outputs=(),
        peak_items=(),
    )


def _manifest(
    folder: Path,
    parameters: tuple[ParameterSpec, ...],
    members: tuple[MemberSpec, ...],
    missing: tuple[MemberKey, ...],
) -> FamilyManifest:
    def blob(path: str) -> object:
        return blob_reference(folder, path, media_type="application/octet-stream")

    return FamilyManifest.model_validate(
        {
            "quadloom_version": "0",
            "exporter_sha256": "0" * 64,
            "model": ModelSpec(source="tiny/<bert>", architecture="bert", layers=LAYERS, parameters=1),
            "task": TaskSpec(kind="sequence-classification", num_labels=2),
            "lora": LoraSpec(rank=2, alpha=4, target_modules=TARGETS),
            "batch": BatchSpec(batch_size=2, sequence_length=4),
            "stash": StashSpec(bits=8, group_size=8),
            "dropout": 0.0,
            "parameters": parameters,
            "formats": (FormatSpec(format="onnx", weights=blob("onnx/weights.bin"), versions={"opset": 17}),),
            "members": members,
            "evaluation": (),
            "adapter": (blob("adapter/adapter_config.json"), blob("adapter/adapter_model.safetensors")),
            "tokenizer": (blob("tokenizer/tokenizer.json"),),
            "missing": missing,
        }
    )


def update_content(
    tensors: Mapping[str, np.ndarray], *, examples: int = 10, report: Mapping[str, object] | None = None
) -> bytes:
    """An update as a device sends it; `report` replaces fields of an ordinary report."""
    fields = {
        "examples": examples,
        "steps": 5,
        "loss_first": 0.7,
        "loss_last": 0.4,
        "train_s": 1.5,
        "baseline_bytes": 1000,
        "peak_step_bytes": 2000,
        "downloaded_bytes": 3000,
    }
    text = json.dumps(UpdateReport.model_validate(fields).model_dump() | dict(report or {}))
    return save(dict(tensors), metadata={"report": text})


class DeviceAuth:
    """Signs every request as a device does, with a key that belongs to its name: ``client.get(url, auth=...)``.

    Attributes:
        device_id: who it says it is; to be set once it has enrolled.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.time, device_id: str = "") -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.public_key = public_key_text(self.key.public_key())
        self.device_id = device_id
        self._clock = clock

    def sign(self, method: str, target: str, content: bytes) -> dict[str, str]:
        """The fields to send with a request; ever new."""
        return sign(
            self.key,
            method=method,
            target=target,
            content_sha256=hashlib.sha256(content).digest(),
            key_id=self.public_key if (method, target) == ("POST", "/v1/devices") else self.device_id or "nobody",
            created_s=int(self._clock()),
            nonce=os.urandom(16),
        )

    def __call__(self, request: Any) -> Any:
        """The request with its signature; called by the HTTP client."""
        fields = self.sign(request.method, request.url.raw_path.decode(), request.read())
        request.headers.update(fields)
        return request


@dataclass
class TaskUnderTest:
    """A task whose time passes and whose background runs when the test says so."""

    family: ServedFamily
    state_folder: Path
    policy: RoundPolicy
    evaluator: Evaluator | None
    database_url: str | None = None
    settings: TrainingSettings = field(default_factory=lambda: TrainingSettings(seed=7))
    now_s: float = 1000.0
    jobs: list[Callable[[], None]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state: ServerState = self._open()
        self.rounds = self._make_rounds()

    def restart(self) -> None:
        """What a killed process leaves is the state folder: jobs and memory are gone."""
        self.state.close()
        self.jobs.clear()
        self.state = self._open()
        self.rounds = self._make_rounds()

    def close(self) -> None:
        self.state.close()

    def run_background(self) -> None:
        """Run what has been queued, and what that queues."""
        while self.jobs:
            self.jobs.pop(0)()

    def enrol(self, *names: str, memory_limit_bytes: int = LARGE_MEMORY_BYTES, **more: Any) -> list[str]:
        """Enrol devices and return their ids."""
        given = {"formats": ("onnx",), "memory_limit_bytes": memory_limit_bytes, "threads": 1, "examples": 100}
        capabilities = Capabilities.model_validate(given | more)
        return [self._enrol(name, capabilities) for name in names]

    def auth(self, name: str, device_id: str = "") -> "DeviceAuth":
        """Signs HTTP requests as the device of this name does; it enrols first if no id is given."""
        return DeviceAuth(name, clock=lambda: self.now_s, device_id=device_id)

    def token(self, **wanted: Any) -> str:
        """A new enrolment token."""
        with self.rounds.turn() as turn:
            return tokens.issue(turn.session, IssueTokenRequest(**wanted), now_s=turn.now_s).token

    def assignment(self, device_id: str) -> Assignment:
        """Check in and expect work."""
        answer = self.rounds.check_in(device_id)
        assert answer.assignment is not None, answer.reason
        return answer.assignment

    def report(self, assignment_id: str, content: bytes) -> ReportResponse:
        """Upload an update and report it, as the route does."""
        with self.state.uploads.receiving() as growing:
            growing.write(content)
            return self.rounds.report_update(assignment_id, growing.finish())

    def content(
        self, assignment: Assignment, change: float, *, examples: int = 10, report: Mapping[str, object] | None = None
    ) -> bytes:
        """An honest update that moves every trained tensor by `change`."""
        rows = rows_at_rank(self.family.manifest.trained_parameters(assignment.member.depth), assignment.rank)
        return update_content(
            {row.name: np.full(row.shape, change, dtype=np.float32) for row in rows}, examples=examples, report=report
        )

    def parameters(self, number: int) -> dict[str, FloatArray]:
        """The global parameters after a round."""
        return self.state.adapters.read(number)

    def _enrol(self, name: str, capabilities: Capabilities) -> str:
        auth = self.auth(name)
        request = EnrolRequest(
            name=name, capabilities=capabilities, public_key=auth.public_key, enrolment_token=self.token()
        )
        fields = auth.sign("POST", "/v1/devices", b"")
        signature = parse_signature(**{field.replace("-", "_"): value for field, value in fields.items()})
        return self.rounds.enrol(request, signature).device_id

    def _open(self) -> ServerState:
        return open_state(
            self.state_folder,
            self.family,
            aggregation=self.policy.aggregation,
            database_url=self.database_url,
            now_s=self.now_s,
        )

    def _make_rounds(self) -> Rounds:
        rounds = Rounds(
            family=self.family,
            state=self.state,
            policy=self.policy,
            settings=self.settings,
            background=self.jobs.append,
            evaluator=self.evaluator,
            clock=lambda: self.now_s,
            announce=self.events.append,
        )
        rounds.start()
        return rounds


def accuracy_from_bias(parameters: Mapping[str, FloatArray]) -> Evaluation:
    """An evaluator whose result depends on the parameters, so that a wrong adapter shows."""
    bias = parameters["base_model.model.classifier.bias"]
    return Evaluation(accuracy=float(1 / (1 + np.exp(-bias[0]))), loss=float(abs(bias[1])), examples=100)


@pytest.fixture(name="write_family")
def _write_family() -> Callable[..., Path]:
    return write_family


@pytest.fixture(name="update_content")
def _update_content() -> Callable[..., bytes]:
    return update_content


@pytest.fixture
def device_auth() -> type[DeviceAuth]:
    """Signs requests to a real server: ``client.auth = device_auth("name")``."""
    return DeviceAuth


@pytest.fixture
def family_folder(tmp_path: Path) -> Path:
    return write_family(tmp_path / "family")


@pytest.fixture
def family(family_folder: Path) -> ServedFamily:
    return open_family(family_folder)


@pytest.fixture
def make_task(family: ServedFamily, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., TaskUnderTest]:
    """Make a task with this policy: ``make_task(rounds=2, min_devices=3)``."""

    def make(*, evaluator: Evaluator | None = accuracy_from_bias, **policy: float | str) -> TaskUnderTest:
        task = TaskUnderTest(family, tmp_path / "state", RoundPolicy(**policy), evaluator)  # type: ignore[arg-type]
        request.addfinalizer(task.close)
        return task

    return make
