"""A device that holds the family's key uses nothing that the key does not vouch for. Real processes, a real server."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_runtime.family_folder import save_manifest
from quadloom_runtime.family_signature import sign_manifest
from quadloom_runtime.keys import write_public_key

SMALL = MemberKey(depth=1, quantized_layers=1)
ONE_STEP = TrainingSettings(max_steps=1)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_device(server: Any, data_file: Path, tmp_path: Path) -> Run:
    """Run a device that trusts `KEY` to its end."""
    write_public_key(tmp_path / "family.pub", KEY.public_key())

    def run() -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-m", "quadloom_runtime", "device", "--server", server.url, "--data", str(data_file)]
        words += ["--name", "d1", "--cache", str(tmp_path / "cache"), "--patience-s", "10"]
        words += ["--family-key", str(tmp_path / "family.pub")]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    return run


def offer_signed(server: Any, folder: Path, manifest: FamilyManifest) -> None:
    server.offer_family(folder, manifest)
    server.manifest_signature = sign_manifest((folder / "family.json").read_bytes(), KEY)


def fetched(server: Any) -> set[str]:
    return {path.rsplit("/", 1)[1] for _, path, _ in server.requests if path.startswith("/v1/blobs/")}


def test_a_signed_family_is_trained(server: Any, family: tuple[Path, FamilyManifest], run_device: Run) -> None:
    offer_signed(server, *family)
    server.assign(family[1], SMALL, settings=ONE_STEP, assignment_id="a-1")
    ended = run_device()
    assert ended.returncode == 0, ended.stderr
    assert [assignment_id for assignment_id, _ in server.updates] == ["a-1"]


def test_an_unsigned_family_is_refused_before_any_file_of_it(
    server: Any, family: tuple[Path, FamilyManifest], run_device: Run
) -> None:
    server.offer_family(*family)
    server.assign(family[1], SMALL, settings=ONE_STEP, assignment_id="a-1")
    ended = run_device()
    assert ended.returncode == 1
    assert "the server's manifest is not signed" in ended.stderr
    assert fetched(server) == {server.manifest_sha256}
    assert not server.updates


def test_a_manifest_that_was_altered_after_it_was_signed_is_refused(
    server: Any, family: tuple[Path, FamilyManifest], run_device: Run
) -> None:
    folder, manifest = family
    offer_signed(server, folder, manifest)
    save_manifest(folder, manifest.model_copy(update={"dropout": 0.5}))
    server.offer_family(folder, manifest)  # with the signature of the other one
    ended = run_device()
    assert ended.returncode == 1
    assert "the signature of the server's manifest is not one of it" in ended.stderr
    assert fetched(server) == {server.manifest_sha256}


def test_a_server_cannot_slip_another_graph_under_a_signed_manifest(
    server: Any, family: tuple[Path, FamilyManifest], run_device: Run
) -> None:
    offer_signed(server, *family)
    assignment = server.assign(family[1], SMALL, settings=ONE_STEP, assignment_id="a-1")
    graph, *others = assignment.blobs
    forged = graph.model_copy(update={"sha256": server.offer(b"another graph"), "size_bytes": 13})
    server.assignments[0] = assignment.model_copy(update={"blobs": (forged, *others)})
    ended = run_device()
    assert ended.returncode == 0, ended.stderr
    ((_, failure),) = server.failures
    assert "the assignment names other files than the manifest has for d01-q01" in failure.message
    assert forged.sha256 not in fetched(server)
    assert not server.updates


def test_an_assignment_that_leaves_files_out_is_not_filled_up_with_old_ones(
    server: Any, family: tuple[Path, FamilyManifest], run_device: Run
) -> None:
    offer_signed(server, *family)
    assignment = server.assign(family[1], SMALL, settings=ONE_STEP, assignment_id="a-1")
    server.assignments[0] = assignment.model_copy(update={"blobs": assignment.blobs[1:]})
    assert run_device().returncode == 0
    ((_, failure),) = server.failures
    assert "names other files" in failure.message


def test_a_key_file_that_is_none_is_named_before_anything_is_sent(server: Any, run_device: Run, tmp_path: Path) -> None:
    (tmp_path / "family.pub").write_text("not a key")
    ended = run_device()
    assert ended.returncode == 1
    assert "family.pub holds no Ed25519 public key" in ended.stderr
    assert server.requests == []
