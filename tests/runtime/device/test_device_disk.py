"""A device whose disk is full, read-only, shared or altered: each said clearly, on real processes and real files."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_runtime.blobs import BlobCache
from quadloom_runtime.connection import ServerAddress
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.state import DeviceState

SMALL = MemberKey(depth=1, quantized_layers=1)
SMALL_DISK_BYTES = 100_000
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.fixture
def command(server: Any, data_file: Path, family: tuple[Path, FamilyManifest], tmp_path: Path) -> list[str]:
    """A device that has one step to make."""
    server.offer_family(*family)
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id="a-1")
    words = [sys.executable, "-m", "quadloom_runtime", "device", "--server", server.url, "--data", str(data_file)]
    return [*words, "--name", "d1", "--cache", str(tmp_path / "cache"), "--patience-s", "10"]


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert "Traceback" not in ended.stderr
    return ended


def read_only(folder: Path, command: list[str]) -> list[str]:
    """The command as it runs where `folder` cannot be written; for root that takes a mount of its own."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        return command
    mounted = ["unshare", "-m", "sh", "-c", READ_ONLY, str(folder)]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("root can write everywhere, and may not mount here")
    return [*mounted, *command]


def test_a_full_disk_is_reported_to_the_server_with_the_file(command: list[str], server: Any) -> None:
    limit = (SMALL_DISK_BYTES, SMALL_DISK_BYTES)
    ended = run(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert ended.returncode == 0, ended.stderr
    ((_, failure),) = server.failures
    assert failure.kind == "other"
    assert "cannot be used: File too large" in failure.message
    assert "free space there" in failure.message
    assert not server.updates


def test_what_was_downloaded_before_the_disk_was_full_is_not_fetched_again(
    command: list[str], server: Any, family: tuple[Path, FamilyManifest]
) -> None:
    limit = (SMALL_DISK_BYTES, SMALL_DISK_BYTES)
    run(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    server.assign(family[1], SMALL, settings=TrainingSettings(max_steps=1), assignment_id="a-2")
    assert run(command).returncode == 0
    assert [assignment_id for assignment_id, _ in server.updates] == ["a-2"]
    weights = family[1].format_spec("onnx").weights
    asked = [wanted for _, path, wanted in server.requests if path.endswith(weights.sha256)]
    assert asked[0] is None
    assert asked[-1] is not None
    assert int(asked[-1].removeprefix("bytes=").removesuffix("-")) >= SMALL_DISK_BYTES // 2


def test_a_read_only_cache_is_named(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    ended = run(read_only(tmp_path / "cache", command))
    assert ended.returncode == 1
    assert str(tmp_path / "cache") in ended.stderr
    assert "remedy:" in ended.stderr


def test_a_second_device_on_the_same_cache_is_refused(command: list[str], server: Any, tmp_path: Path) -> None:
    with DeviceState(tmp_path / "cache" / "state").locked():
        ended = run(command)
    assert ended.returncode == 1
    assert "another device uses" in ended.stderr
    assert "give each device its own --cache" in ended.stderr
    assert not server.updates


def test_a_partial_download_that_was_altered_on_the_disk_is_fetched_again(server: Any, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    cache, sha256 = BlobCache(tmp_path), server.offer(content)
    partial = cache.partial_path(sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"\0" + content[1:200_000])
    client = ServerClient(ServerAddress(server.url), Ed25519PrivateKey.generate())
    client.download(sha256, cache, largest_bytes=1 << 30)
    client.close()
    assert cache.path(sha256).read_bytes() == content
    assert [wanted for _, _, wanted in server.requests] == ["bytes=200000-", None]


def test_what_lies_in_the_cache_from_before_a_kill_counts_as_fetched_for_the_assignment(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    assert state.bytes_here_at_first("a-1", 1000) == 1000
    assert DeviceState(tmp_path).bytes_here_at_first("a-1", 700_000) == 1000
    assert state.bytes_here_at_first("a-2", 700_000) == 700_000
    state.forget_all_but("a-2")
    assert state.bytes_here_at_first("a-1", 5) == 5
