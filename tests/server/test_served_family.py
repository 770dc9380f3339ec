"""A family is checked before anything of it is served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import load_manifest, save_manifest
from quadloom_runtime.family_signature import read_signature, write_signature
from quadloom_server.api.app import create_app
from quadloom_server.family import open_family

WriteFamily = Callable[..., Path]


def test_an_altered_file_is_named(family_folder: Path) -> None:
    weights = family_folder / "onnx/weights.bin"
    content = bytearray(weights.read_bytes())
    content[1234] ^= 1
    weights.write_bytes(content)
    with pytest.raises(QuadloomError, match=r"onnx/weights\.bin: content altered"):
        open_family(family_folder)


def test_a_missing_file_is_named(family_folder: Path) -> None:
    (family_folder / "onnx/train-d01-q01.onnx").unlink()
    with pytest.raises(QuadloomError, match=r"train-d01-q01\.onnx: missing"):
        open_family(family_folder)


@pytest.mark.parametrize("linked", ["onnx/weights.bin", "onnx"])
def test_a_symbolic_link_in_a_family_is_not_served(family_folder: Path, tmp_path: Path, linked: str) -> None:
    (family_folder / linked).rename(tmp_path / "elsewhere")
    (family_folder / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(QuadloomError, match=r"onnx/weights\.bin: a symbolic link"):
        open_family(family_folder)


def test_a_folder_without_a_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuadloomError, match="no family at"):
        open_family(tmp_path / "nowhere")


def test_an_incomplete_family_is_served_with_a_warning_that_names_what_is_missing(
    tmp_path: Path, write_family: WriteFamily
) -> None:
    absent = MemberKey(depth=2, quantized_layers=1)
    family = open_family(write_family(tmp_path / "partial", missing=(absent,)))
    assert family.member(absent) is None
    (warning,) = family.warnings
    assert "1 members cannot be assigned: d02-q01" in warning


def test_an_adapter_that_differs_from_the_parameter_table_is_refused(family_folder: Path) -> None:
    manifest = load_manifest(family_folder)
    first = manifest.parameters[0]
    wrong = first.model_copy(update={"shape": (9, 9)})
    save_manifest(family_folder, manifest.model_copy(update={"parameters": (wrong, *manifest.parameters[1:])}))
    with pytest.raises(QuadloomError, match=r"float32 \[2, 8\] in the file, float32 \[9, 9\] in the table"):
        open_family(family_folder)


def test_identity_survives_more_members_but_not_another_adapter(tmp_path: Path, write_family: WriteFamily) -> None:
    complete = open_family(write_family(tmp_path / "complete"))
    partial = open_family(write_family(tmp_path / "partial", missing=(MemberKey(depth=2, quantized_layers=1),)))
    other = open_family(write_family(tmp_path / "other", seed=1))
    assert complete.manifest_sha256 != partial.manifest_sha256
    assert complete.identity == partial.identity
    assert complete.identity != other.identity


@pytest.fixture
def signature(family_folder: Path) -> str | None:
    """The family is signed before it is opened."""
    write_signature(family_folder, Ed25519PrivateKey.generate())
    return read_signature(family_folder)


def test_the_signature_of_a_family_is_passed_on_to_devices(signature: str, make_task: Callable[..., Any]) -> None:
    task = make_task(rounds=1)
    (device_id,) = task.enrol("phone")
    assert task.assignment(device_id).manifest_signature == signature
    auth = task.auth("phone", device_id)
    capabilities = {"formats": ["onnx"], "memory_limit_bytes": 10**8, "threads": 1, "examples": 100}
    message = {"name": "phone", "capabilities": capabilities, "public_key": auth.public_key}
    with TestClient(create_app(task.rounds)) as client:
        assert client.post("/v1/devices", json=message, auth=auth).json()["manifest_signature"] == signature


def test_a_signature_file_that_is_none_is_named_before_anything_is_served(family_folder: Path) -> None:
    (family_folder / "family.json.sig").write_text("trust me")
    with pytest.raises(QuadloomError, match=r"family\.json\.sig holds no signature: 'trust me'"):
        open_family(family_folder)
