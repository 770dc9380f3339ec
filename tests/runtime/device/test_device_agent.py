"""The device as a real process against a real HTTP server; the training engine is ONNX Runtime on a tiny family."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load, load_file

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import TrainingSettings, UpdateReport
from quadloom_runtime.data import encode, epoch_order, load_examples
from quadloom_runtime.engines.engine import FloatArray

SMALL, HUNGRY = MemberKey(depth=1, quantized_layers=1), MemberKey(depth=1, quantized_layers=0)
SETTINGS = TrainingSettings(epochs=8, learning_rate=0.02, head_learning_rate=0.05, seed=3)
STEPS = 8 * 5  # eighteen examples in batches of four
PATIENCE_S = 60.0


@dataclass
class Device:
    """Starts device processes that share a cache folder, one after the other."""

    server: Any
    data: Path
    folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def named(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def start(self, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "quadloom_runtime", "device", "--server", self.server.url]
        command += ["--data", str(self.data), "--name", "d1", "--cache", str(self.folder / "cache")]
        command += ["--events", str(self.folder / "events.jsonl"), "--patience-s", "10", *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *options: str) -> str:
        process = self.start(*options)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output


@pytest.fixture
def device(server: Any, data_file: Path, family: tuple[Path, FamilyManifest], tmp_path: Path) -> Device:
    server.offer_family(*family)
    return Device(server, data_file, tmp_path)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def training_process_of(pid: int) -> int | None:
    """The child that trains; multiprocessing has another one that watches resources."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def report_of(content: bytes, folder: Path) -> UpdateReport:
    (folder / "update.safetensors").write_bytes(content)
    with safe_open(folder / "update.safetensors", "numpy") as file:
        return UpdateReport.model_validate_json(file.metadata()["report"])


def torch_update(
    folder: Path, data_file: Path, settings: TrainingSettings
) -> tuple[dict[str, FloatArray], list[float]]:
    """The same training of the same model, written in torch; also the norm of the layer's gradient in each step."""
    norms = []
    start = load_file(folder / "adapter/adapter_model.safetensors")
    tensors = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
    embedding = torch.from_numpy(np.fromfile(folder / "onnx/weights.bin", np.float32, count=8 * 16).reshape(8, 16))
    data = encode(load_examples(data_file), folder / "tokenizer/tokenizer.json", sequence_length=5)
    head = [tensors["head.weight"], tensors["head.bias"]]
    optimizer = torch.optim.AdamW(
        [
            {"params": [tensors["layer.lora"]], "lr": settings.learning_rate},
            {"params": head, "lr": settings.head_learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    for epoch in range(settings.epochs):
        for rows in torch.from_numpy(epoch_order(len(data), seed=settings.seed, epoch=epoch)).split(4):
            mask = torch.from_numpy(data.attention_mask)[rows].float().unsqueeze(2)
            x = (embedding[torch.from_numpy(data.input_ids)[rows]] * mask).sum(1) / mask.sum(1)
            logits = (x + x @ tensors["layer.lora"]) @ tensors["head.weight"].T + tensors["head.bias"]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels)[rows]).backward()
            gradient = tensors["layer.lora"].grad
            assert gradient is not None
            norms.append(float(gradient.norm()))
            torch.nn.utils.clip_grad_norm_(list(tensors.values()), settings.clip_norm or 1e9)
            optimizer.step()
    return {name: value.detach().numpy() - start[name] for name, value in tensors.items()}, norms


def test_the_update_that_arrives_is_that_of_the_same_training_in_torch(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-1")
    output = device.run()
    ((assignment_id, content),) = server.updates
    assert assignment_id == "a-1"
    expected, norms = torch_update(family[0], device.data, SETTINGS)
    found = load(content)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-5)
        assert np.abs(value).max() > 0.01, "the reference must have moved"
    report = report_of(content, tmp_path)
    assert (report.examples, report.steps) == (18, STEPS)
    assert report.loss_last < report.loss_first
    assert report.gradient_norms == pytest.approx([np.median(norms)], rel=1e-3)
    assert report.downloaded_bytes == sum(
        blob.size_bytes for blob in (*server_files(family[1], SMALL), family[1].adapter[0])
    )
    assert "finished: all is done" in output
    kinds = [each["event"] for each in device.events]
    assert [kind for kind in kinds if kind not in ("downloading", "step")] == [
        "enrolled", "assigned", "fetched", "trained", "reported", "finished",
    ]  # fmt: skip
    assert kinds.count("step") == STEPS


def server_files(manifest: FamilyManifest, key: MemberKey) -> tuple[Any, ...]:
    graph = next(each.graph for each in manifest.members if each.key == key)
    return (graph, manifest.format_spec("onnx").weights, *manifest.tokenizer)


def test_a_member_of_depth_zero_sends_the_head_only(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    key = MemberKey(depth=0, quantized_layers=0)
    server.assign(family[1], key, settings=TrainingSettings(), assignment_id="a-1")
    device.run()
    assert set(load(server.updates[0][1])) == {"head.weight", "head.bias"}


def test_a_second_round_fetches_nothing_that_is_here(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    for name in ("a-1", "a-2"):
        server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id=name)
    device.run()
    first, second = (report_of(content, tmp_path) for _, content in server.updates)
    assert first.downloaded_bytes > 500_000
    assert second.downloaded_bytes == family[1].adapter[0].size_bytes, (
        "each round brings another adapter; this one was the same again"
    )


def test_what_earlier_assignments_left_is_removed_but_not_the_files_of_other_members(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    server.assign(family[1], HUNGRY, settings=TrainingSettings(max_steps=1), assignment_id="a-1")
    device.run()
    cache = BlobCache(device.folder / "cache" / "blobs")
    left = [cache.path("ab" * 32), cache.partial_path("cd" * 32)]  # by kills, and by a family that is served no more
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"an adapter of an earlier round")
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id="a-2")
    device.run()
    assert not any(path.exists() for path in left)
    for key in (HUNGRY, SMALL):
        assert all(cache.holds(blob.sha256) for blob in server_files(family[1], key))


def test_an_adapter_larger_than_the_parameter_table_allows_is_not_taken_in(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    assigned = server.assign(family[1], SMALL, settings=TrainingSettings(), assignment_id="a-1")
    content = bytes(10_000_000)
    huge = assigned.adapter.model_copy(update={"sha256": server.offer(content), "size_bytes": len(content)})
    server.assignments = [assigned.model_copy(update={"adapter": huge})]
    device.run()
    ((_, failure),) = server.failures
    assert f"blob {huge.sha256}" in failure.message
    assert "more than" in failure.message
    assert not server.updates


def test_the_seconds_of_transfers_are_those_of_the_link(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    for name in ("a-1", "a-2"):
        server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id=name)
    device.run("--link-mbps", "8")
    first, second = (report_of(content, tmp_path) for _, content in server.updates)
    assert first.download_s == pytest.approx(first.downloaded_bytes / 1e6, rel=0.5)
    assert (first.last_upload_bytes, first.last_upload_s) == (None, None), "nothing was sent before"
    assert second.last_upload_bytes == len(server.updates[0][1])
    assert second.last_upload_s is not None
    assert 0 < second.last_upload_bytes / 1e6 < second.last_upload_s < 2


def test_a_step_beyond_the_limit_is_reported_with_member_and_limit_and_the_next_work_is_done(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    settings = TrainingSettings(max_steps=2)
    server.assign(family[1], HUNGRY, settings=settings, assignment_id="too-large")
    server.assign(family[1], SMALL, settings=settings, assignment_id="fits")
    output = device.run("--memory-limit", "60MB")
    ((assignment_id, failure),) = server.failures
    assert (assignment_id, failure.kind) == ("too-large", "out-of-memory"), failure.message
    assert "member d01-q00 does not fit the limit of 60.0 MB" in failure.message
    assert [name for name, _ in server.updates] == ["fits"]
    assert report_of(server.updates[0][1], tmp_path).peak_step_bytes < 60_000_000
    assert [each["member"] for each in device.named("out-of-memory")] == ["d01-q00"]
    assert "out of memory" in output


def test_within_the_limit_the_same_member_trains_and_its_peak_is_measured(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=2), assignment_id="small-before")
    server.assign(family[1], HUNGRY, settings=TrainingSettings(max_steps=2), assignment_id="hungry")
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=2), assignment_id="small-after")
    device.run("--memory-limit", "300MB")
    before, hungry, after = (report_of(content, tmp_path).peak_step_bytes for _, content in server.updates)
    assert 195_000_000 < hungry < 230_000_000
    assert before < 20_000_000
    assert after < 20_000_000, "what the hungry member held must not count for the one after it"


def test_a_killed_device_goes_on_where_it_stood_and_sends_the_same_update(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], tmp_path: Path
) -> None:
    straight = Device(server, device.data, tmp_path / "straight")
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="straight")
    straight.run()
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="killed")
    process = device.start("--checkpoint-s", "0", "--slowdown", "200")
    wait_until(lambda: len(device.named("step")) >= 3)
    training = training_process_of(process.pid)
    process.kill()
    process.wait()
    assert training is not None
    wait_until(lambda: not is_running(training))
    assert len(server.updates) == 1, "it must have been killed before it was done"
    device.run()
    (trained,) = device.named("trained")
    assert 3 <= trained["resumed_at_step"] < STEPS
    assert trained["steps"] == STEPS
    expected, found = (load(content) for _, content in server.updates)
    for name, value in expected.items():
        assert (found[name] == value).all()
    whole, interrupted = (report_of(content, tmp_path) for _, content in server.updates)
    assert interrupted.gradient_norms == whole.gradient_norms
    assert interrupted.downloaded_bytes == whole.downloaded_bytes
    assert whole.download_s is not None
    assert interrupted.download_s is None, "nobody timed what came before the kill"


def test_an_update_that_could_not_be_sent_is_sent_after_a_restart_without_training_again(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-1")
    server.faults["/v1/assignments/"] = ["unavailable"] * 1000
    process = device.start("--patience-s", "0.1")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "did not answer" in output
    server.faults.clear()
    device.run()
    assert len(server.updates) == 1
    assert len(device.named("trained")) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_training_process_that_the_system_kills_or_native_code_aborts_is_reported_as_out_of_memory(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], number: signal.Signals
) -> None:
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-1")
    process = device.start("--slowdown", "200")
    wait_until(lambda: len(device.named("step")) >= 1)
    training = training_process_of(process.pid)
    assert training is not None
    os.kill(training, number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    ((_, failure),) = server.failures
    assert failure.kind == "out-of-memory"
    assert "d01-q01" in failure.message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_device_leaves_no_training_process(
    device: Device, server: Any, family: tuple[Path, FamilyManifest], number: signal.Signals
) -> None:
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-1")
    process = device.start("--slowdown", "500")
    wait_until(lambda: len(device.named("step")) >= 1)
    training = training_process_of(process.pid)
    assert training is not None
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "Traceback" not in output
    wait_until(lambda: not is_running(training))


def test_what_the_server_lacks_is_reported_and_the_next_work_is_done(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    settings = TrainingSettings(max_steps=1)
    lost = server.assign(family[1], HUNGRY, settings=settings, assignment_id="lost")
    server.assign(family[1], SMALL, settings=settings, assignment_id="fine")
    del server.blobs[lost.blobs[0].sha256]
    device.run()
    ((assignment_id, failure),) = server.failures
    assert (assignment_id, failure.kind) == ("lost", "other")
    assert "unknown-blob" in failure.message
    assert [name for name, _ in server.updates] == ["fine"]


def test_a_graph_that_cannot_be_loaded_is_reported(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    _, manifest = family
    damaged = server.offer(b"not a graph")
    assigned = server.assign(manifest, SMALL, settings=TrainingSettings(), assignment_id="a-1")
    graph = assigned.blobs[0].model_copy(update={"sha256": damaged, "size_bytes": 11})
    server.assignments = [assigned.model_copy(update={"blobs": (graph, *assigned.blobs[1:])})]
    device.run()
    ((_, failure),) = server.failures
    assert failure.kind == "other"
    assert "train-d01-q01.onnx" in failure.message


def test_a_refused_update_is_reported_as_a_failure(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id="a-1")
    server.faults["/v1/assignments/a-1/update"] = ["refuse"]
    device.run()
    ((_, failure),) = server.failures
    assert "the test says refuse" in failure.message


def test_a_cached_file_that_was_altered_is_fetched_again(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-1")
    device.run()
    weights = family[1].format_spec("onnx").weights
    path = device.folder / "cache" / "blobs" / weights.sha256[:2] / weights.sha256
    path.write_bytes(bytes(path.stat().st_size))
    server.assign(family[1], SMALL, settings=SETTINGS, assignment_id="a-2")
    device.run()
    first, second = (load(content) for _, content in server.updates)
    assert all((second[name] == value).all() for name, value in first.items())


def test_a_manifest_that_changes_between_rounds_is_read_again(
    device: Device, server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    _, manifest = family
    old = server.assign(manifest, SMALL, settings=TrainingSettings(max_steps=1), assignment_id="a-1")
    longer = manifest.model_copy(update={"members": manifest.members[2:], "quadloom_version": "1"})
    changed = server.offer(longer.model_dump_json().encode())
    shorter = manifest.model_copy(update={"members": manifest.members[:1]})
    without = server.offer(shorter.model_dump_json().encode())
    for name, sha256 in (("a-2", changed), ("a-3", without)):
        server.assignments.append(old.model_copy(update={"assignment_id": name, "manifest_sha256": sha256}))
    device.run()
    assert [name for name, _ in server.updates] == ["a-1", "a-2"]
    assert "has no member d01-q01" in server.failures[0][1].message


def test_a_server_that_forgot_the_device_gets_it_enrolled_again(device: Device, server: Any) -> None:
    server.faults["/v1/devices/device-1/check-in"] = ["unknown-device"]
    device.run()
    assert len(device.named("enrolled")) == 2


def test_labels_beyond_the_familys_end_the_device_with_row_and_value(device: Device) -> None:
    device.data.write_text('{"text": "good", "label": 1}\n{"text": "odd", "label": 2}\n')
    process = device.start()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "row 2: label 2 is outside 0..1" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--server", "nonsense"], "'nonsense' is not an HTTP address"),
        (["--memory-limit", "much"], "'much' is not a size"),
        (["--threads", "0"], "threads is 0"),
        (["--name", "a b"], "name is 'a b'"),
        (["--slowdown", "0.5"], "--slowdown is 0.5"),
        (["--link-mbps", "0"], "--link-mbps is 0"),
        (["--profile", "mainframe"], "mainframe"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
        (["--text-field", "sentence"], "no field 'sentence'"),
    ],
)
def test_bad_options_end_the_device_with_the_value(device: Device, options: list[str], cause: str) -> None:
    process = device.start(*options)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert cause in output
    assert "remedy:" in output
    assert "Traceback" not in output
