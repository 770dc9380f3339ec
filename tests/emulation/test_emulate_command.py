"""`quadloom emulate` as a person runs it: real server, real devices, real training."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE_S = 120.0
Start = Callable[..., subprocess.Popen[str]]


def write_fleet(folder: Path, family: Path, text: Path, *, task: str = "", devices: str | None = None) -> Path:
    path = folder / "fleet.toml"
    path.write_text(
        f'[task]\nfamily = "{family}"\nlearning_rate = 0.02\nhead_learning_rate = 0.05\n{task}\n'
        f'[data]\ntrain = "{text / "train.jsonl"}"\neval = "{text / "eval.jsonl"}"\n'
        + (devices or '[[device]]\nprofile = "laptop"\nname = "phone"\ncount = 2\n')
    )
    return path


def children_of(pid: int) -> dict[int, str]:
    """Pids and command lines of the running descendants of a process."""
    found: dict[int, str] = {}
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in each.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found |= {int(child): words} | children_of(int(child))
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def all_ended(pids: list[int]) -> bool:
    def has_ended(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return all(map(has_ended, pids))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``quadloom emulate``; whatever is left of it at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start_emulation(fleet: Path, *more: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "quadloom_runtime", "emulate", "--fleet", str(fleet)]
        process = subprocess.Popen(
            [*words, "--work", str(tmp_path / "work"), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_emulation
    for process in started:
        if process.poll() is None:
            for pid in [*children_of(process.pid), process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.communicate()


def events(work: Path, device: str) -> list[dict[str, object]]:
    path = work / "events" / f"{device}.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def is_training(work: Path, device: str) -> bool:
    return any(each["event"] == "step" for each in events(work, device))


def test_a_fleet_learns_ends_at_the_target_and_shows_what_every_device_and_round_did(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start
) -> None:
    fleet = write_fleet(
        tmp_path, tiny_family, separable_text, task="rounds = 8\ntarget_accuracy = 0.9\nlocal_epochs = 4"
    )
    process = start(fleet)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    for device in ("phone-1", "phone-2"):
        assert re.search(rf"{device}\W+laptop\W+\(1, 0\)\W+4\W+\d+\.\d / 2000\W", output), output
        downloaded = [
            each["downloaded_bytes"] for each in events(tmp_path / "work", device) if each["event"] == "fetched"
        ]
        assert downloaded[0], "each device has a cache of its own, so each fetches the family itself"
    accuracies = [float(found) for found in re.findall(r"round \d+, 2 updates in .*: accuracy (0\.\d+|1\.0+)", output)]
    assert max(accuracies) >= 0.9
    assert "target accuracy 0.9: reached" in output


def test_devices_of_different_engines_train_one_model(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start
) -> None:
    devices = "".join(
        f'[[device]]\nprofile = "laptop"\nname = "{name}"\nformats = ["{name}"]\n' for name in ("onnx", "executorch")
    )
    task = "rounds = 8\ntarget_accuracy = 0.9\nlocal_epochs = 4"
    process = start(write_fleet(tmp_path, tiny_family, separable_text, task=task, devices=devices))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    for name in ("onnx", "executorch"):
        assigned = {each["member"] for each in events(tmp_path / "work", f"{name}-1") if each["event"] == "assigned"}
        assert assigned == {"d01-q00-r03" if name == "onnx" else "d01-q00-r03 executorch"}


def test_a_target_that_is_not_reached_makes_the_command_fail_after_its_tables(
    tmp_path: Path, tiny_family: Path, start: Start
) -> None:
    rows = "".join(json.dumps({"text": "film plot", "label": label}) + "\n" for label in (0, 1) * 8)
    for name in ("train.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text(rows)  # nothing can be right more than half of the time
    process = start(write_fleet(tmp_path, tiny_family, tmp_path, task="rounds = 1\ntarget_accuracy = 0.9"))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, output
    assert "phone-2" in output
    assert "target accuracy 0.9: NOT reached" in output


def test_when_a_device_dies_the_fleet_ends_and_says_which_and_what_it_said_last(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start
) -> None:
    process = start(write_fleet(tmp_path, tiny_family, separable_text, task="rounds = 50\nlocal_epochs = 200"))
    until(lambda: is_training(tmp_path / "work", "phone-2"))
    running = children_of(process.pid)
    (victim,) = [pid for pid, words in running.items() if "quadloom_runtime device" in words and "phone-2" in words]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert re.search(r"device phone-2 ended with status -9: round 1: ", output), output
    assert re.search(r"1 of 2 devices ended with an error, and a round\s+needs 2 updates: phone-2", output), output
    until(lambda: all_ended(list(running)))


def test_rounds_close_at_their_deadline_without_a_device_that_vanished(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start
) -> None:
    task = "rounds = 2\nmin_updates = 1\nround_deadline_s = 8\nlocal_epochs = 100"
    process = start(write_fleet(tmp_path, tiny_family, separable_text, task=task))
    until(lambda: is_training(tmp_path / "work", "phone-2"))
    running = children_of(process.pid)
    (victim,) = [pid for pid, words in running.items() if "quadloom_runtime device" in words and "phone-2" in words]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "device phone-2 ended with status -9" in output
    assert re.search(r"round 2, 1 updates? in ", output), output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_devices_train_stops_server_devices_and_their_training(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start, number: signal.Signals, status: int
) -> None:
    process = start(write_fleet(tmp_path, tiny_family, separable_text, task="rounds = 50\nlocal_epochs = 200"))
    until(lambda: all(is_training(tmp_path / "work", device) for device in ("phone-1", "phone-2")))
    running = children_of(process.pid)
    assert len([words for words in running.values() if "quadloom_runtime device" in words]) == 2
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, output
    assert "Traceback" not in output
    until(lambda: all_ended(list(running)))


def test_a_port_in_use_is_named_with_a_remedy(
    tmp_path: Path, tiny_family: Path, separable_text: Path, start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(write_fleet(tmp_path, tiny_family, separable_text), "--port", str(port))
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert str(port) in output
    assert "remedy" in output
    assert "Traceback" not in output


def test_a_family_that_is_not_there_is_named(tmp_path: Path, separable_text: Path, start: Start) -> None:
    process = start(write_fleet(tmp_path, tmp_path / "nowhere", separable_text))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert str(tmp_path / "nowhere") in output
