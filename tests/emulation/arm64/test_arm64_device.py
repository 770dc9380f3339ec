"""The device program of arm64, emulated, in a round with a native device: same data, same work, so the same update."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from quadloom_runtime.emulation.processes import Child, Processes

NATIVE = [sys.executable, "-m", "quadloom_runtime"]
PATIENCE_S = 500.0
TOLERANCE = 1e-5
LARGEST_PAGE = 65_536
"""Bytes; a Raspberry Pi 5 has pages of 16 KiB, other boards of 4 or 64 KiB. The emulator has those of its host."""
LOADED_SEGMENT = b"\x01\0\0\0"
UPDATES = """
    SELECT devices.name, updates.examples, updates.blob_sha256
    FROM updates JOIN devices ON devices.id = updates.device_id
"""
PROGRAMS = Path(os.environ.get("QUADLOOM_ARM64", ""))
"""Folder of the emulated `python` and `quadloom`."""

pytestmark = pytest.mark.skipif(
    not PROGRAMS.name, reason="no emulated arm64 here: run.sh beside this file makes it, `make arm64-test` runs it"
)


@dataclass(frozen=True)
class Told:
    """What a device recorded."""

    events: list[dict[str, Any]]

    def of_kind(self, kind: str, field: str) -> list[Any]:
        """One field of every event of a kind, in order."""
        return [event[field] for event in self.events if event["event"] == kind]


@dataclass(frozen=True)
class Update:
    """What the server accepted from a device."""

    examples: int
    tensors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Round:
    """What a round left behind, by name of the device."""

    told: dict[str, Told]
    updates: dict[str, Update]


@pytest.fixture(scope="module")
def trained_round(tiny_family: Path, separable_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """One round of a signed family of the member d02-q01 alone: one layer keeps its stash in INT8, one in float32."""
    work = tmp_path_factory.mktemp("arm64")
    family, key = work / "family", work / "family.key"
    quadloom("keys", str(key))
    shape = "--num-labels 2 --depths 2 --quantized 1 --rank 4 --batch-size 8 --sequence-length 8 --formats onnx"
    model = tiny_family.parent / "model"
    quadloom("export", str(model), *shape.split(), "--signing-key", str(key), "--out", str(family))
    programs = {"native": NATIVE, "arm64": [str(PROGRAMS / "quadloom")]}
    with Processes(work) as processes:
        server = processes.start("server", serve_arguments(family, work / "state", separable_text))
        url = until(lambda: address(server), server)
        token = quadloom(
            *("server", "tokens", "issue", "--uses", "2", "--server", url),
            *("--admin-token-file", str(work / "state/admin-token")),
        )
        (work / "token").write_text(token.split()[-1])
        for name, program in programs.items():
            options = {
                "--server": url,
                "--data": separable_text / "train.jsonl",
                "--name": name,
                "--cache": work / name,
                "--enrolment-token-file": work / "token",
                "--family-key": f"{key}.pub",
                "--patience-s": PATIENCE_S,
                "--events": work / f"{name}.jsonl",
            }
            processes.start_command(name, [*program, "device", *map(str, sum(options.items(), ()))])
        for child in processes.children[::-1]:
            until(lambda child=child: child.process.poll() is not None, child)
            assert child.process.returncode == 0, child.log.read_text()
        return Round({name: recorded(work / f"{name}.jsonl") for name in programs}, accepted(work / "state"))


def serve_arguments(family: Path, state: Path, text: Path) -> list[str]:
    folders = ["--family", str(family), "--state", str(state), "--eval-data", str(text / "eval.jsonl")]
    # Rates at which eighteen steps change every tensor by much more than the tolerance.
    rounds = "--rounds 1 --min-devices 2 --local-epochs 2 --learning-rate 0.01 --head-learning-rate 0.01 --port 0"
    return ["serve", *folders, *rounds.split(), "--keep-updates", "--exit-when-finished"]


def quadloom(*arguments: str) -> str:
    """What a native command prints."""
    done = subprocess.run([*NATIVE, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def address(server: Child) -> str | None:
    """Where it listens, None until it does."""
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("serving ")]
    return lines[0].split()[-1] if lines else None


def until(condition: Callable[[], Any], child: Child) -> Any:
    """Wait until something is true, and return it."""
    give_up_at_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at_s:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing happened for {PATIENCE_S:g} s; {child.name} said:\n{child.log.read_text()}")


def recorded(path: Path) -> Told:
    return Told([json.loads(line) for line in path.read_text().splitlines()])


def accepted(state: Path) -> dict[str, Update]:
    with sqlite3.connect(state / "server.db") as database:
        rows = database.execute(UPDATES).fetchall()
    return {name: Update(count, load_file(state / "blobs" / sha256[:2] / sha256)) for name, count, sha256 in rows}


def segment_alignments(library: Path) -> set[int]:
    """By how many bytes the parts of an ELF file must be aligned that are mapped."""
    content = library.read_bytes()
    (first,) = struct.unpack_from("<Q", content, 0x20)
    size, count = struct.unpack_from("<HH", content, 0x36)
    headers = [content[first + place * size :][:size] for place in range(count)]
    return {struct.unpack_from("<Q", each, 0x30)[0] for each in headers if each[:4] == LOADED_SEGMENT}


def test_python_and_its_children_run_on_emulated_arm64() -> None:
    command = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    words = [PROGRAMS / "python", "-c", command, "import platform; print(platform.machine())"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "aarch64\n"


def test_every_library_can_be_mapped_in_the_pages_of_any_board() -> None:
    installed = [path for path in (PROGRAMS.parent / "lib").rglob("*.so*") if path.is_file()]
    assert {path.name.partition(".")[0] for path in installed} >= {"onnxruntime_pybind11_state", "tokenizers", "_rust"}
    too_small = [path.name for path in installed if any(each % LARGEST_PAGE for each in segment_alignments(path))]
    assert not too_small


def test_the_arm64_device_takes_part_in_a_round_of_a_signed_family(trained_round: Round) -> None:
    for told in trained_round.told.values():
        assert told.of_kind("assigned", "member") == ["d02-q01-r03"]
        assert told.of_kind("reported", "status") == ["accepted"]
        assert told.of_kind("finished", "reason") != []
    assert {update.examples for update in trained_round.updates.values()} == {72}


def test_its_losses_are_those_of_the_native_device(trained_round: Round) -> None:
    native, arm64 = (trained_round.told[name].of_kind("step", "loss") for name in ("native", "arm64"))
    assert len(native) == 18
    assert np.ptp(native) > 10 * TOLERANCE, "the steps must differ"
    np.testing.assert_allclose(arm64, native, rtol=0, atol=TOLERANCE)


def test_its_update_is_that_of_the_native_device(trained_round: Round) -> None:
    native, arm64 = (trained_round.updates[name].tensors for name in ("native", "arm64"))
    assert arm64.keys() == native.keys()
    for name, change in native.items():
        assert np.abs(change).max() > 10 * TOLERANCE, f"{name} must have moved"
        np.testing.assert_allclose(arm64[name], change, rtol=0, atol=TOLERANCE, err_msg=name)
